"""The chain as actors: one per stage, then fan_out; each sends its batch on to the next. Large work takes a lane
of its own, in one step.

Consumes   schema.wire.Batch, one or several
Produces   the same, narrowed, for the next stage; after fan_out schema.wire.Deliveries per channel
Repeats    safely: stages answer alike, fan_out leaves out what is written
Waits      while Postgres or Redis is away, with its batch in hand
Fails as   a dead letter after three more tries (workers/middleware.py); the clock rescues its events meanwhile
"""

from collections.abc import Sequence
from functools import partial

import dramatiq
import msgspec
from structlog.contextvars import bind_contextvars

import workers.broker  # noqa: F401  (the broker must be set before an actor is declared)
from pipelines import STAGES
from pipelines.accept import Accepted, address
from pipelines.fan_out import fan_out as write_out
from pipelines.stage import Stage
from schema.event import MAX_RECIPIENTS
from schema.notification import Notification
from schema.wire import BATCH, Batch, read
from workers.deliver import send_deliveries
from workers.patience import patiently
from workers.queues import PIPELINE, PIPELINE_BULK, PIPELINE_NEXT
from workers.resources import catalog, resources

BULK = 100
"""Recipients; an event with more of them is large work."""
LANES = ((PIPELINE, 1, BULK), (PIPELINE_BULK, BULK + 1, MAX_RECIPIENTS))
"""Where an event begins, by its recipients: queue, fewest, most."""

Hop = dramatiq.Actor[..., None]


def begin(messages: Sequence[msgspec.Raw]) -> list[Notification]:
    """What several messages carry, as one batch."""
    batch = [n for message in messages for n in read(message, Batch).notifications]
    bind_contextvars(items=len(batch))
    return batch


def send(batch: list[Notification], to: Hop) -> None:
    to.send_with_options(args=(Batch(batch),), items=len(batch))


def finish(batch: list[Notification]) -> None:
    written = patiently(lambda: write_out(batch, resources()))
    for channel, deliveries in written.items():
        patiently(partial(send_deliveries, channel, deliveries))


@dramatiq.actor(queue_name=PIPELINE_NEXT, priority=0)
def fan_out(*messages: msgspec.Raw) -> None:
    finish(begin(messages))


@dramatiq.actor(queue_name=PIPELINE_BULK)
def bulk(*messages: msgspec.Raw) -> None:
    """The whole chain at once: what is large already gains nothing by waiting in four queues."""
    batch = begin(messages)
    for stage in STAGES:
        batch = patiently(partial(stage, batch, resources()))
    finish(batch)


def declare(stage: Stage, following: Hop, queue: str, priority: int) -> Hop:
    """The actor of a stage; its name is the stage's, and a wire name: never rename it in place."""

    def hop(*messages: msgspec.Raw) -> None:
        batch = begin(messages)
        narrowed = patiently(lambda: stage(batch, resources()))
        patiently(lambda: send(narrowed, following))

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
    """Sends accepted events into the chain, in messages of up to 500 notifications. Large work is alone in its
    messages: two batches never share two events, so they never wait for each other in a circle.

    Raises dramatiq.errors.ConnectionClosed when Redis is away; then nothing is lost, the clock starts them."""
    small: list[Notification] = []
    for event in events:
        notifications = address(event, catalog())
        if len(notifications) > BULK:
            for first in range(0, len(notifications), BATCH):
                send(notifications[first : first + BATCH], bulk)
            continue
        if len(small) + len(notifications) > BATCH:
            send(small, first_stage)
            small = []
        small += notifications
    if small:
        send(small, first_stage)
