"""The chain as actors: one per stage, then fan_out; each passes its batch on to the next. Large work takes a lane
of its own, in one step.

Consumes   schema.wire.Batch, one or several
Produces   the same, narrowed, for the next stage; after fan_out schema.wire.Deliveries per channel
Repeats    safely: stages answer alike, fan_out leaves out what is written
Waits      while Postgres or Redis is away, with its batch in hand
Fails as   a dead letter after three more tries (workers/middleware.py); the clock rescues its events meanwhile
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

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

SMALL = 50
"""Notifications; a batch with no more goes on to the next stage in place. A way through Redis takes longer than
most stages do; it pays when it lets another process take a large batch over."""

Work = Callable[[list[Notification]], None]


class Hop(NamedTuple):
    """A stage, or the end of the chain: `actor` takes messages from its queue, `work` does what it does."""

    actor: dramatiq.Actor[..., None]
    work: Work

    def take(self, batch: list[Notification]) -> None:
        if len(batch) <= SMALL:
            self.work(batch)
        else:
            patiently(lambda: send(batch, self.actor))


def declare(name: str, work: Work, queue: str, priority: int = 0) -> Hop:
    """An actor; its name is a wire name: never rename it in place."""

    def hop(*messages: msgspec.Raw) -> None:
        batch = [n for message in messages for n in read(message, Batch).notifications]
        bind_contextvars(items=len(batch))
        work(batch)

    return Hop(dramatiq.actor(actor_name=name, queue_name=queue, priority=priority)(hop), work)


def link(stages: Sequence[Stage], last: Hop) -> Hop:
    """The stages in order, the first on its own queue; a smaller priority goes first within a process."""
    hop = last
    for place, stage in reversed(list(enumerate(stages, 1))):
        queue = PIPELINE if place == 1 else PIPELINE_NEXT
        hop = declare(stage.__name__, narrowing(stage, hop), queue, priority=len(stages) + 1 - place)
    return hop


def narrowing(stage: Stage, following: Hop) -> Work:
    def work(batch: list[Notification]) -> None:
        following.take(patiently(lambda: stage(batch, resources())))

    return work


def end(batch: list[Notification]) -> None:
    written = patiently(lambda: write_out(batch, resources()))
    for channel, deliveries in written.items():
        patiently(partial(send_deliveries, channel, deliveries))


def whole(batch: list[Notification]) -> None:
    """All stages in one step: what is large already gains nothing by waiting in four queues."""
    for stage in STAGES:
        batch = patiently(partial(stage, batch, resources()))
    end(batch)


fan_out = declare("fan_out", end, PIPELINE_NEXT)
first_stage = link(STAGES, fan_out)
bulk = declare("bulk", whole, PIPELINE_BULK)


def send(batch: list[Notification], to: dramatiq.Actor[..., None]) -> None:
    to.send_with_options(args=(Batch(batch),), items=len(batch))


def start(events: Sequence[Accepted]) -> None:
    """Sends accepted events into the chain, in messages of up to 500 notifications.

    Raises dramatiq.errors.ConnectionClosed when Redis is away; then nothing is lost, the clock starts them."""
    small: list[Notification] = []
    for event in events:
        notifications = address(event, catalog())
        if len(notifications) > BULK:
            for first in range(0, len(notifications), BATCH):
                send(notifications[first : first + BATCH], bulk.actor)
            continue
        if len(small) + len(notifications) > BATCH:
            send(small, first_stage.actor)
            small = []
        small += notifications
    if small:
        send(small, first_stage.actor)
