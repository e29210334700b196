"""What fetches a queue's messages for a worker process; see workers/broker.py for what it mends.

Small messages that wait are gathered: those of one actor become one call of it, up to 500 items or what
workers/queues.py says, and are acknowledged together. So a backlog of single events is worked off in batches, and
a lonely one waits for nobody. A gathered call that fails is sent again as the messages it was made of
(workers/middleware.py), which then travel alone: a poisonous one takes no neighbour with it.
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import dramatiq
import redis
from dramatiq.brokers.redis import _RedisConsumer
from dramatiq.common import dq_name
from dramatiq.errors import ConnectionClosed, DecodeError
from dramatiq.message import Message

from schema.wire import BATCH
from workers.log import logger
from workers.middleware import bury
from workers.queues import share

if TYPE_CHECKING:
    from workers.broker import Broker

MOST_MESSAGES = 500
BYTES = 64 * 1024
"""What one fetch brings at most for each call of 500 items that there is room for, unless one message alone is
larger: about a full batch of notifications."""
IDLE_WAIT = 1.0
"""Seconds an idle consumer waits on its list before it shows itself alive and waits again."""
SIGN = 1.0
"""Seconds after which even a consumer with full hands shows itself alive."""


class Consumer(_RedisConsumer):
    """Fetches one queue's messages for this process. Dramatiq makes a new one after every lost connection, so
    what must outlast that (the ids in hand) is the broker's."""

    def __init__(self, broker: "Broker", queue_name: str, prefetch: int, timeout: int) -> None:
        super().__init__(broker, queue_name, prefetch, timeout)  # type: ignore[no-untyped-call]
        self.held = broker.held.setdefault(queue_name, set())
        self.freed, self.emptied = threading.Event(), False
        if queue_name == dq_name(queue_name):
            self.held.clear()  # a delayed message is in nobody's hands but the lost consumer's
        else:
            self.prefetch = min(prefetch, share(queue_name).calls)
        self._safely(self._reclaim)

    def ack(self, message: Any) -> None:
        self._safely(lambda: self.broker.do_ack(self.queue_name, *ids(message)))
        self._let_go(message)

    def nack(self, message: Any) -> None:
        for id_ in ids(message):
            self._safely(lambda: self.broker.do_nack(self.queue_name, id_))  # noqa: B023
        self._let_go(message)

    def requeue(self, messages: Iterable[Any]) -> None:
        """What was fetched and not begun goes back to the queue."""
        unbegun = [id_ for message in messages for id_ in ids(message)]
        if unbegun:
            self._safely(lambda: self.broker.do_requeue(self.queue_name, *unbegun))
        self.held.difference_update(unbegun)

    def close(self) -> None:
        """What was fetched and not handed over goes back at once."""
        unbegun, self.message_cache = self.message_cache, []
        self.requeue(unbegun)

    def __next__(self) -> Any:
        if not self.message_cache:
            self._safely(self._fill)
        if not self.message_cache:
            return None
        message = self.message_cache.pop(0)
        self.queued_message_ids.add(message.message_id)
        self.held.update(ids(message))
        return dramatiq.MessageProxy(message)

    def _let_go(self, message: Any) -> None:
        self.held.difference_update(ids(message))
        self.queued_message_ids.discard(message.message_id)
        self.freed.set()

    def _safely(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None

    @property
    def _room(self) -> int:
        return max(0, int(self.prefetch - self.outstanding_message_count))

    def _fill(self) -> None:
        self.freed.clear()
        if not self._room:
            self.freed.wait(SIGN)
        room = self._room
        if room and self.emptied:
            key = f"{self.broker.namespace}:{self.queue_name}"
            self.broker.client.blmove(key, key, IDLE_WAIT, "LEFT", "LEFT")
        items = share(self.queue_name).items
        waiting, *found = self.broker.do_fetch(
            self.queue_name, room and MOST_MESSAGES, room * BYTES * items // BATCH
        )
        self.emptied = not waiting
        self.broker.polled[self.queue_name] = time.monotonic()  # the fetch was also the heartbeat
        readable = []
        for id_, data in zip(found[::2], found[1::2], strict=True):
            if message := read(data):
                readable.append(message)
            else:
                self._bury_unreadable(id_.decode(), data or b"")
        self.message_cache = gathered(readable, items)

    def _reclaim(self) -> None:
        """Ids that Redis counts as held here, and that are not, go back to the queue."""
        key = f"{self.broker.namespace}:__acks__.{self.broker.broker_id}.{self.queue_name}"
        lost = {id_.decode() for id_ in self.broker.client.smembers(key)} - self.held
        if lost:
            self.broker.do_requeue(self.queue_name, *lost)
            logger().warning("messages_reclaimed", queue=self.queue_name, messages=len(lost))

    def _bury_unreadable(self, id_: str, data: bytes) -> None:
        self.broker.do_nack(self.queue_name, id_)
        bury(self.queue_name, "", data, "unreadable: not a message of this fleet", "")
        logger().error("message_unreadable", queue=self.queue_name, message=id_)


def ids(message: Any) -> list[str]:
    """By which Redis knows the message, or those it was gathered from."""
    return [part.options["redis_message_id"] for part in message.options.get("parts", (message,))]


def read(data: bytes | None) -> Message[Any] | None:
    try:
        message: Message[Any] = Message.decode(data or b"")
    except (DecodeError, TypeError, KeyError):
        return None
    return message if "redis_message_id" in message.options else None


def gathered(messages: Iterable[Message[Any]], most: int = BATCH) -> list[Message[Any]]:
    """Calls of up to `most` items, in the order of their first messages. Only a message that says how many items
    it has, and did not fail before, is gathered with others."""
    calls: list[list[Message[Any]]] = []
    latest: dict[str, tuple[list[Message[Any]], int]] = {}
    for message in messages:
        items = message.options.get("items", BATCH)
        parts, together = latest.get(message.actor_name, ([], most))
        if "retries" in message.options or together + items > most:
            parts, together = [], 0
            calls.append(parts)
        parts.append(message)
        if "retries" not in message.options:
            latest[message.actor_name] = (parts, together + items)
    return [parts[0] if len(parts) == 1 else as_one(parts) for parts in calls]


def as_one(parts: list[Message[Any]]) -> Message[Any]:
    """A call with every part's argument, one after the other. Redis knows the `parts`, and not the whole."""
    items = sum(part.options["items"] for part in parts)
    args = tuple(arg for part in parts for arg in part.args)
    return parts[0].copy(args=args, options={"parts": parts, "items": items})
