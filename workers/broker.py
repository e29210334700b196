"""The Redis broker of this fleet: Dramatiq's, made to wake at once and to lose nothing.

What it does otherwise than the stock one, and why, with the Dramatiq issues that tell of it:

waits on its list     stock sleeps up to a second when a queue is empty (#773)
reclaims              ids that Redis counts as held here and that are not: the reply of a fetch was lost, or the
                      consumer started anew with messages in memory (#527, #894)
one kind of error     timeouts, read-only replicas and a full memory read as a lost connection, after which
                      Dramatiq starts the consumer anew or tries the ack again (#894)
buries the unreadable a message that does not decode goes to the dead letters; its neighbours are worked off
Redis' own clock      heartbeats carry the server's time, so a worker whose clock is wrong is not taken for dead

It rests on Dramatiq's private consumer: the version is pinned, tests/contracts/test_broker.py guards the names.
"""

import time
from collections.abc import Callable
from typing import Any, cast

import dramatiq
import msgspec
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.common import dq_name
from dramatiq.encoder import Encoder
from dramatiq.errors import ConnectionClosed, DecodeError
from dramatiq.message import Message
from dramatiq.middleware import AgeLimit, CurrentMessage, ShutdownNotifications
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.log import logger
from workers.middleware import Bury, Log, Process, SafeRetries, bury
from workers.queues import NAMESPACE
from workers.settings import settings

HEARTBEAT_TIMEOUT = 10_000
"""Milliseconds without a sign after which a process's messages go back to their queues."""
DEAD_LETTERS_KEPT = 7 * 24 * 3600 * 1000
"""Milliseconds that Redis keeps its own copy of a dead message; the table `dead_letters` has it for good."""
IDLE_WAIT = 1.0
"""Seconds an idle consumer waits on its list before it shows itself alive and waits again."""
FULL_WAIT = 0.005
"""Seconds until a consumer whose workers are all busy looks again."""
SIGN = 1.0
"""Seconds after which even a full consumer shows itself alive."""


class Envelope(msgspec.Struct):
    """Dramatiq's message. Its arguments stay as they are until an actor reads them, by their own type."""

    queue_name: str
    actor_name: str
    args: tuple[msgspec.Raw, ...]
    kwargs: dict[str, msgspec.Raw]
    options: dict[str, Any]
    message_id: str
    message_timestamp: int


_envelopes = msgspec.json.Decoder(Envelope)


class JsonEncoder(Encoder):
    """Messages as JSON by msgspec, which knows our structs and ids."""

    def encode(self, data: dict[str, Any]) -> bytes:
        return msgspec.json.encode(data)

    def decode(self, data: bytes) -> dict[str, Any]:
        try:
            return msgspec.structs.asdict(_envelopes.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError("not a message", data, error) from None


class Consumer(_RedisConsumer):
    """Fetches one queue's messages for this process. Dramatiq makes a new one after every lost connection, so
    what must outlast that (the ids in hand) is the broker's."""

    def __init__(self, broker: "Broker", queue_name: str, prefetch: int, timeout: int) -> None:
        super().__init__(broker, queue_name, prefetch, timeout)  # type: ignore[no-untyped-call]
        self.held = broker.held.setdefault(queue_name, set())
        if queue_name == dq_name(queue_name):
            self.held.clear()  # a delayed message is in nobody's hands but the lost consumer's
        self.signed = 0.0
        self._safely(self._reclaim)

    def ack(self, message: Any) -> None:
        self._settle(super().ack, message)

    def nack(self, message: Any) -> None:
        self._settle(super().nack, message)

    def requeue(self, messages: Any) -> None:
        messages = list(messages)
        self._safely(lambda: super(Consumer, self).requeue(messages))  # type: ignore[no-untyped-call]
        self.held.difference_update(message.options["redis_message_id"] for message in messages)

    def __next__(self) -> Any:
        if not self.message_cache:
            self._safely(self._fill)
        if not self.message_cache:
            return None
        message = self.message_cache.pop(0)
        self.queued_message_ids.add(message.message_id)
        self.held.add(message.options["redis_message_id"])
        return dramatiq.MessageProxy(message)

    def _settle(self, how: Callable[[Any], None], message: Any) -> None:
        self._safely(lambda: how(message))
        self.held.discard(message.options["redis_message_id"])

    def _safely(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None

    def _fill(self) -> None:
        room = self.prefetch - self.outstanding_message_count
        if room <= 0 and time.monotonic() - self.signed < SIGN:
            time.sleep(FULL_WAIT)
            return
        found = self.broker.do_fetch(self.queue_name, max(0, room))  # also the heartbeat
        self.signed = self.broker.polled[self.queue_name] = time.monotonic()
        self.message_cache = [message for data in found if (message := self._read(data))]
        if len(self.message_cache) < len(found):
            self._bury_unreadable()
        elif not found and room > 0:
            key = f"{self.broker.namespace}:{self.queue_name}"
            self.broker.client.blmove(key, key, IDLE_WAIT, "LEFT", "LEFT")

    def _read(self, data: bytes | None) -> Message[Any] | None:
        try:
            message: Message[Any] = Message.decode(data or b"")
        except (DecodeError, TypeError, KeyError):
            return None
        return message if "redis_message_id" in message.options else None

    def _taken(self) -> set[str]:
        """Ids that Redis counts as held by this process, from this queue."""
        key = f"{self.broker.namespace}:__acks__.{self.broker.broker_id}.{self.queue_name}"
        return {id_.decode() for id_ in self.broker.client.smembers(key)}

    def _reclaim(self) -> None:
        lost = self._taken() - self.held
        if lost:
            self.broker.do_requeue(self.queue_name, *lost)
            logger().warning("messages_reclaimed", queue=self.queue_name, messages=len(lost))

    def _bury_unreadable(self) -> None:
        """A fetch answers with contents and not with ids: the unreadable are those that nobody here knows."""
        known = self.held | {message.options["redis_message_id"] for message in self.message_cache}
        for id_ in self._taken() - known:
            data = self.broker.client.hget(f"{self.broker.namespace}:{self.queue_name}.msgs", id_) or b""
            self.broker.do_nack(self.queue_name, id_)
            bury(self.queue_name, "", data, "unreadable: not a message of this fleet", "")
            logger().error("message_unreadable", queue=self.queue_name, message=id_)


class Broker(RedisBroker):
    """`held`: by queue, ids of messages in this process's hands; `polled`: when each queue was last asked."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)  # type: ignore[no-untyped-call]
        self.held: dict[str, set[str]] = {}
        self.polled: dict[str, float] = {}
        self._offset: float | None = None

    @property
    def consumer_class(self) -> type[Consumer]:
        return Consumer

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        try:
            return super().enqueue(message, delay=delay)
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None

    def now(self) -> int:
        """Milliseconds by Redis' clock, asked once."""
        if self._offset is None:
            seconds, micros = cast("tuple[int, int]", self.client.time())
            self._offset = seconds + micros / 1e6 - time.time()
        return int((time.time() + self._offset) * 1000)

    def _dispatch(self, command: str) -> Callable[..., Any]:
        script = self.scripts["dispatch"]

        def do_dispatch(queue_name: str, *args: Any) -> Any:
            # No maintenance by chance, which searches all keys: the clock gives back what the dead held.
            values: list[str | int] = [
                command,
                self.now(),
                queue_name,
                self.broker_id,
                HEARTBEAT_TIMEOUT,
                DEAD_LETTERS_KEPT,
                0,
            ]
            most = self._max_unpack_size()  # type: ignore[no-untyped-call]
            return script(args=[*values, most, *args], keys=[self.namespace])

        return do_dispatch


def connect() -> Broker:
    """The broker of this process; connects on first use. Its client never retries by itself: a repeated fetch
    would strand what the first one took, a repeated enqueue would run twice."""
    client = redis.Redis.from_url(
        settings().redis,
        socket_timeout=5,
        socket_connect_timeout=2,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 0),
    )
    return Broker(
        client=client,
        namespace=NAMESPACE,
        middleware=[
            AgeLimit(),
            ShutdownNotifications(),
            CurrentMessage(),
            SafeRetries(),
            Process(),
            Log(),
            Bury(),
        ],
    )


dramatiq.set_encoder(JsonEncoder())
dramatiq.set_broker(connect())
