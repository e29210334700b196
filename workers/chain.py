"""The chain as an actor, in two lanes: a batch goes through the stages one after the other and is written at their
end.

Consumes   schema.wire.Batch, one or several
Produces   schema.wire.Deliveries, per channel
Repeats    safely: stages answer alike, fan_out leaves out what is written
Waits      while Postgres or Redis is away, with its batch in hand
Fails as   a dead letter after three more tries (workers/middleware.py); the clock rescues its events meanwhile

The stages share a process: to hand a batch on through Redis costs more than most of them do, and there is nothing
to gain, for what another process could take over is waiting in the queue anyway.
"""

from collections.abc import Sequence
from functools import partial

import dramatiq
import msgspec
from structlog.contextvars import bind_contextvars

import workers.broker  # noqa: F401  (the broker must be set before an actor is declared)
from pipelines import STAGES
from pipelines.accept import Accepted, address
from pipelines.fan_out import fan_out
from schema.event import MAX_RECIPIENTS
from schema.notification import Notification
from schema.wire import BATCH, Batch, read
from workers.deliver import send_deliveries
from workers.patience import patiently
from workers.queues import PIPELINE, PIPELINE_BULK
from workers.resources import catalog, resources

BULK = 100
"""Recipients; an event with more of them is large work, in a lane of its own where it delays nobody else's."""
LANES = ((PIPELINE, 1, BULK), (PIPELINE_BULK, BULK + 1, MAX_RECIPIENTS))
"""Where an event begins, by its recipients: queue, fewest, most."""


def chain(*messages: msgspec.Raw) -> None:
    batch = [n for message in messages for n in read(message, Batch).notifications]
    bind_contextvars(items=len(batch))
    for stage in STAGES:
        batch = patiently(partial(stage, batch, resources()))
    written = patiently(partial(fan_out, batch, resources()))
    for channel, deliveries in written.items():
        patiently(partial(send_deliveries, channel, deliveries))


ACTORS = {queue: dramatiq.actor(actor_name=queue, queue_name=queue)(chain) for queue, _, _ in LANES}
"""By lane, and named like it. These are wire names: never rename one in place."""


def send(batch: list[Notification], lane: str) -> None:
    ACTORS[lane].send_with_options(args=(Batch(batch),), items=len(batch))


def start(events: Sequence[Accepted]) -> None:
    """Sends accepted events into the chain, in messages of up to 500 notifications.

    Raises dramatiq.errors.ConnectionClosed when Redis is away; then nothing is lost, the clock starts them."""
    small: list[Notification] = []
    for event in events:
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
