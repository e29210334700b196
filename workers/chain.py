"""The chain as actors: one per stage, then fan_out; each sends its batch on to the next.

Consumes   schema.wire.Batch
Produces   the same, narrowed, for the next stage; after fan_out schema.wire.Deliveries per channel
Repeats    safely: stages answer alike, fan_out leaves out what is written
Waits      while Postgres or Redis is away, with its batch in hand
Fails as   a dead letter after three more tries (workers/middleware.py); the clock rescues its events meanwhile
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import dramatiq
import msgspec
from structlog.contextvars import bind_contextvars

import workers.broker  # noqa: F401  (the broker must be set before an actor is declared)
from pipelines import STAGES
from pipelines.accept import Accepted, address
from pipelines.fan_out import fan_out as write_out
from pipelines.stage import Stage
from schema.notification import Notification
from schema.wire import Batch, read
from workers.deliver import send_deliveries
from workers.patience import patiently
from workers.queues import PIPELINE, PIPELINE_NEXT
from workers.resources import catalog, resources

BATCH = 500
"""Notifications in one message."""

Hop = dramatiq.Actor[[Any], None]


def begin(message: msgspec.Raw) -> Batch:
    batch = read(message, Batch)
    bind_contextvars(items=len(batch.notifications))
    return batch


@dramatiq.actor(queue_name=PIPELINE_NEXT, priority=0)
def fan_out(message: msgspec.Raw) -> None:
    batch = begin(message)
    written = patiently(lambda: write_out(batch.notifications, resources()))
    for channel, deliveries in written.items():
        patiently(partial(send_deliveries, channel, deliveries))


def declare(stage: Stage, following: Hop, queue: str, priority: int) -> Hop:
    """The actor of a stage; its name is the stage's, and a wire name: never rename it in place."""

    def hop(message: msgspec.Raw) -> None:
        batch = begin(message)
        narrowed = Batch(patiently(lambda: stage(batch.notifications, resources())))
        patiently(lambda: following.send(narrowed))

    return dramatiq.actor(actor_name=stage.__name__, queue_name=queue, priority=priority)(hop)


def link(stages: Sequence[Stage], last: Hop) -> Hop:
    """The stages in order, the first on its own queue; a smaller priority goes first within a process."""
    hop = last
    for place, stage in reversed(list(enumerate(stages, 1))):
        queue = PIPELINE if place == 1 else PIPELINE_NEXT
        hop = declare(stage, hop, queue, priority=len(stages) + 1 - place)
    return hop


first_stage: Hop = link(STAGES, fan_out)


def start(events: Sequence[Accepted]) -> None:
    """Sends accepted events into the chain, in messages of up to 500 notifications. An event of more is alone
    in its messages: two batches never share two events, so they never wait for each other in a circle.

    Raises dramatiq.errors.ConnectionClosed when Redis is away; then nothing is lost, the clock starts them."""
    batch: list[Notification] = []
    for event in events:
        notifications = address(event, catalog())
        if len(batch) + len(notifications) > BATCH:
            _send(batch)
            batch = []
        batch += notifications
        if len(batch) > BATCH:
            _send(batch)
            batch = []
    _send(batch)


def _send(batch: list[Notification]) -> None:
    for begin in range(0, len(batch), BATCH):
        first_stage.send(Batch(batch[begin : begin + BATCH]))
