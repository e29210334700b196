"""The Redis broker of this fleet: Dramatiq's, made to wake at once and to lose nothing.

What it does otherwise than the stock one, and why, with the Dramatiq issues that tell of it:

waits on its list     stock sleeps up to a second when a queue is empty (#773)
reclaims              ids that Redis counts as held here and that are not: the reply of a fetch was lost, or the
                      consumer started anew with messages in memory (#527, #894)
one kind of error     timeouts, read-only replicas and a full memory read as a lost connection, after which
                      Dramatiq starts the consumer anew or tries the ack again (#894)
buries the unreadable a message that does not decode goes to the dead letters; its neighbours are worked off
gathers               small messages that wait become one call of their actor (workers/consumer.py)
Redis' own clock      heartbeats carry the server's time, so a worker whose clock is wrong is not taken for dead

It rests on Dramatiq's private consumer: the version is pinned, tests/contracts/test_broker.py guards the names.
"""

import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any, cast

import dramatiq
import msgspec
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.encoder import Encoder
from dramatiq.errors import ConnectionClosed, DecodeError
from dramatiq.message import Message
from dramatiq.middleware import AgeLimit, CurrentMessage, ShutdownNotifications
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.consumer import Consumer
from workers.middleware import Bury, Log, Process, SafeRetries
from workers.queues import NAMESPACE
from workers.settings import settings

HEARTBEAT_TIMEOUT = 10_000
"""Milliseconds without a sign after which a process's messages go back to their queues."""
DEAD_LETTERS_KEPT = 7 * 24 * 3600 * 1000
"""Milliseconds that Redis keeps its own copy of a dead message; the table `dead_letters` has it for good."""


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


class Broker(RedisBroker):
    """`held`: by queue, ids of messages in this process's hands; `polled`: when each queue was last asked."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)  # type: ignore[no-untyped-call]
        self.in_hand = self.client.register_script(files("workers").joinpath("held.lua").read_text())
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

    def do_fetch(self, queue: str, messages: int, size: int) -> list[Any]:
        """How many wait still, then id, message, id, message, …; see held.lua. Also this process's heartbeat."""
        arguments: list[Any] = ["fetch", self.broker_id, queue, messages, size]
        return cast("list[Any]", self.in_hand([self.namespace], arguments))

    def do_ack(self, queue: str, *ids: str) -> None:
        self.in_hand([self.namespace], ["ack", self.broker_id, queue, *ids])

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
