"""The chain as an actor, in two lanes: a batch goes through the stages one after the other and is written at their
end.

Consumes   schema.wire.Batch, one or several
Produces   schema.wire.Deliveries, per channel
Repeats    safely: stages answer alike, fan_out leaves out what is written
Waits      while Postgres or Redis is away, with its batch in hand; but what is of high or critical importance
           is written without being charged to its limits
Fails as   a dead letter after three more tries (workers/middleware.py); the clock rescues its events meanwhile

The stages share a process: to hand a batch on through Redis costs more than most of them do, and there is nothing
to gain, for what another process could take over is waiting in the queue anyway.

An audience takes the second lane, a chunk for a message, each of which sends the next: so it has no more than one
in the queue, others have their turn, and it waits while single events do.
"""

import time
from collections.abc import Sequence
from functools import partial

import dramatiq
import msgspec
from structlog.contextvars import bind_contextvars

import workers.broker  # noqa: F401  (the broker must be set before an actor is declared)
from pipelines import STAGES, audience
from pipelines.accept import Accepted, address
from pipelines.fan_out import fan_out
from pipelines.rate_limits import Unasked
from pipelines.stage import Stage
from schema.notification import Notification
from schema.wire import BATCH, Batch, Expansion, read
from workers.deliver import send_deliveries
from workers.log import logger
from workers.patience import patiently, stopping
from workers.queues import ENOUGH, PIPELINE, PIPELINE_BULK, backlog, delivery_queue
from workers.resources import catalog, redis_client, resources

BULK = 100
"""Recipients; an event with more of them is large work, in a lane of its own where it delays nobody else's."""
LANES = ((PIPELINE, False), (PIPELINE_BULK, True))
"""Where an event begins: queue, and whether for large ones, which are audiences and what has more than BULK."""
AHEAD = (PIPELINE, delivery_queue("web"))
"""Queues of single events, in front of which an audience pushes nothing."""
GIVES_WAY = 2.0
"""Seconds a chunk waits for them at most: under a load that never ends an audience comes forward, too."""
LOOK = 0.005
"""Seconds between two looks at them."""


def chain(*messages: msgspec.Raw) -> None:
    batch = [n for message in messages for n in read(message, Batch).notifications]
    bind_contextvars(items=len(batch))
    go_through(STAGES, batch)


def expand(message: msgspec.Raw) -> None:
    """Writes the next chunk of an event's audience, and sends for the one after it. Repeats safely: a message that
    is behind the event's row does nothing. Who dies leaves a message to be taken over, or the clock sends one."""
    step = read(message, Expansion)
    patiently(give_way)
    chunk = patiently(partial(audience.next_chunk, step.event, resources()))
    if chunk is None or step.after not in (None, chunk.after):
        return
    bind_contextvars(items=len(chunk.event.recipients or ()))
    if chunk.event.recipients:
        go_through(STAGES, address(chunk.event, catalog()), patient=True)
    if patiently(partial(audience.move_on, chunk, resources())):
        patiently(partial(send_expansion, step.event, chunk.last))


def give_way() -> None:
    """Lets single events go first. Raises redis.RedisError."""
    until = time.monotonic() + GIVES_WAY
    while any(backlog(redis_client(), queue) for queue in AHEAD) and time.monotonic() < until:
        if stopping.wait(LOOK):
            return


def go_through(stages: Sequence[Stage], batch: list[Notification], *, patient: bool = False) -> None:
    """These stages, and fan_out. While Redis cannot be asked for the limits, what need not wait goes ahead.
    `patient`: where enough deliveries wait already, these stay in their rows, and the clock sends them."""
    for number, stage in enumerate(stages, 1):
        try:
            batch = patiently(partial(stage, batch, resources()))
        except Unasked as away:
            logger().warning("limits_not_asked", passing=len(away.passing), waiting=len(away.waiting))
            go_through(stages[number:], away.passing, patient=patient)
            batch = patiently(partial(stage, away.waiting, resources()))
    written = patiently(partial(fan_out, batch, resources()))
    for channel, deliveries in written.items():
        if not (patient and patiently(partial(has_enough, channel))):
            patiently(partial(send_deliveries, channel, deliveries))


def has_enough(channel: str) -> bool:
    return backlog(redis_client(), delivery_queue(channel)) >= ENOUGH


ACTORS = {queue: dramatiq.actor(actor_name=queue, queue_name=queue)(chain) for queue, _ in LANES}
"""By lane, and named like it. These are wire names: never rename one in place."""
EXPAND = dramatiq.actor(actor_name="expand", queue_name=PIPELINE_BULK)(expand)


def send(batch: list[Notification], lane: str) -> None:
    ACTORS[lane].send_with_options(args=(Batch(batch),), items=len(batch))


def send_expansion(event: str, after: str | None = None) -> None:
    EXPAND.send_with_options(args=(Expansion(event, after),))


def start(events: Sequence[Accepted]) -> None:
    """Sends accepted events into the chain, in messages of up to 500 notifications.

    Raises dramatiq.errors.ConnectionClosed when Redis is away; then nothing is lost, the clock starts them."""
    small: list[Notification] = []
    for event in events:
        if event.recipients is None:
            send_expansion(event.id)
            continue
        notifications = address(event, catalog())
        if len(notifications) > BULK:
            for first in range(0, len(notifications), BATCH):
                send(notifications[first : first + BATCH], PIPELINE_BULK)
            continue
        if len(small) + len(notifications) > BATCH:
            send(small, PIPELINE)
            small = []
        small += notifications
    if small:
        send(small, PIPELINE)
