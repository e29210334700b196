"""What happens to a delivery, once for all channels: claim, send, settle; in batches, states as in
schema/delivery.py.

Consumes   schema.wire.Deliveries, one or several, on the queue `deliver-CHANNEL`
Produces   the channel's sends; settled rows, an attempt row for each try, counts
Repeats    safely: what is claimed or settled is not claimed again, and settling is fenced by the attempt's number
Waits      while Postgres is away, with its deliveries in hand; not for a provider, whose deliveries are postponed
Fails as   an outcome, which settles the delivery; an exception is a bug
"""

import random
from collections.abc import Sequence
from datetime import timedelta
from functools import cache, partial
from types import ModuleType
from uuid import UUID

import dramatiq
import msgspec
from structlog.contextvars import bind_contextvars

import workers.broker  # noqa: F401  (the broker must be set before an actor is declared)
from pipelines.backoff import backoff
from pipelines.stage import Resources
from schema.delivery import DEAD, EXPIRED, FAILED, RETRYING, SENT, Away, Gone, Later, Never, Outcome, Sent, Unknown
from schema.wire import Deliveries, read
from workers import claims, digests, groups, presence, publications, quiet, settlements
from workers.channels import CHANNELS
from workers.circuit import Circuit
from workers.claims import Claimed, Decided, Row
from workers.patience import patiently
from workers.queues import delivery_queue, share
from workers.resources import resources
from workers.settlements import Settled

SAID = 500
"""Characters kept of a provider's words."""

Deliver = dramatiq.Actor[..., None]


@cache
def circuit(channel: str) -> Circuit:
    """What this process knows of the channel's provider."""
    return Circuit(channel)


def deliver(channel: ModuleType, ids: Sequence[UUID], use: Resources, provider: Circuit | None = None) -> None:
    """Sends deliveries, in as large batches as the channel and its provider take."""
    if not channel.LEASE:
        patiently(partial(publications.publish, channel, ids, use))
        return
    provider = provider or circuit(channel.NAME)
    waiting = list(ids)
    while waiting:
        room = provider.room(min(channel.BATCH, len(waiting)))
        if not room:
            patiently(partial(postpone, waiting, use, provider.wait()))
            return
        send(channel, waiting[:room], use, provider)
        del waiting[:room]


def postpone(ids: Sequence[UUID], use: Resources, seconds: float) -> None:
    with use.pool.connection() as connection:
        settlements.postpone(connection, ids, seconds)


def send(channel: ModuleType, ids: Sequence[UUID], use: Resources, provider: Circuit) -> None:
    """One batch. No connection is held while the channel sends; what it was told is kept in hand until Postgres
    has it."""
    outcomes: list[Outcome] = []
    try:
        claimed = patiently(partial(claim, channel, ids, use))
        claimed = patiently(partial(complete, channel, ids, claimed, use))
        parcels = [one.parcel for one in claimed if one.parcel]
        if parcels:
            outcomes = channel.send(parcels, use)
    finally:
        provider.hear(outcomes, len(ids) - len(outcomes))
    if not claimed:
        return
    told = iter(outcomes)
    settled = [
        decided(one.row, one.decided)
        if one.decided
        else judge(one.row, channel.SCHEDULE, next(told), provider.wait())
        for one in claimed
    ]
    patiently(partial(settle, claimed, settled, use))


def claim(channel: ModuleType, ids: Sequence[UUID], use: Resources) -> list[Claimed]:
    with use.pool.connection() as connection:
        return claims.claim(connection, channel, ids, use.catalog)


def complete(channel: ModuleType, ids: Sequence[UUID], claimed: list[Claimed], use: Resources) -> list[Claimed]:
    """With what goes out together, or once, or only to the absent."""
    with use.pool.connection() as connection:
        claimed = digests.complete(connection, channel, ids, claimed, use.catalog)
    return groups.told_once(presence.unless_looking(claimed, channel.SERVES, use.catalog, use.redis))


def settle(claimed: Sequence[Claimed], settled: Sequence[Settled], use: Resources) -> None:
    with use.pool.connection() as connection:
        quiet.settle(connection, claimed, settled)


def judge(row: Row, schedule: Sequence[float], outcome: Outcome, pause: float = 0) -> Settled:
    """What the outcome of a try makes of its delivery. `pause`: seconds until the provider is asked again."""
    which = row.delivery, row.attempt, row.type
    match outcome:
        case Sent(receipt, said):
            return Settled(*which, SENT, SENT, receipt=receipt, said=said[:SAID])
        case Never(reason, said):
            return Settled(*which, FAILED, FAILED, reason, said=said[:SAID])
        case Gone(reason, said):
            address = row.address if row.device else row.email
            return Settled(*which, FAILED, FAILED, reason, said=said[:SAID], gone=address, device=row.device)
        case Away(reason, said, wait):
            seconds = max(pause, wait) * random.uniform(1, 1.2)  # noqa: S311  (spreads load, guards nothing)
            return Settled(*which, "away", RETRYING, reason, said=said[:SAID], wait=f"{seconds:.3f}", counts=False)
        case Later(reason, said) | Unknown(reason, said):
            happened = "unknown" if isinstance(outcome, Unknown) else "later"
            if row.tries > len(schedule):
                return Settled(*which, happened, DEAD, reason, said=said[:SAID])
            least = outcome.wait if isinstance(outcome, Later) else 0
            seconds = max(backoff(schedule, row.tries - 1), least)
            if row.ends_at and row.now + timedelta(seconds=seconds) >= row.ends_at:
                return Settled(*which, happened, EXPIRED, reason, said=said[:SAID])
            return Settled(*which, happened, RETRYING, reason, said=said[:SAID], wait=f"{seconds:.3f}")


def decided(row: Row, what: Decided) -> Settled:
    """It was not tried at all."""
    which = row.delivery, row.attempt, row.type
    return Settled(*which, what.state, what.state, what.reason, wait=f"{what.wait:.3f}", counts=False)


def declare(channel: ModuleType) -> Deliver:
    """The actor of a channel; its name and queue are wire names."""

    def hop(*messages: msgspec.Raw) -> None:
        ids = [id_ for message in messages for id_ in read(message, Deliveries).deliveries]
        bind_contextvars(items=len(ids))
        deliver(channel, ids, resources())

    return dramatiq.actor(actor_name=f"deliver_{channel.NAME}", queue_name=delivery_queue(channel.NAME))(hop)


ACTORS: dict[str, Deliver] = {channel.NAME: declare(channel) for channel in CHANNELS}


def send_deliveries(channel: str, ids: Sequence[UUID]) -> None:
    """Sends deliveries to their channel's workers, a call's share in a message."""
    most = share(delivery_queue(channel)).items
    for begin in range(0, len(ids), most):
        together = list(ids[begin : begin + most])
        ACTORS[channel].send_with_options(args=(Deliveries(together),), items=len(together))
