"""The Redis broker of this fleet: Dramatiq's, waking at once and speaking one kind of connection error.

Stock Dramatiq sleeps up to a second when a queue is empty; this one waits on the list itself (`BLMOVE q q LEFT
LEFT` answers as soon as the list is not empty, and leaves it as it is). It rests on Dramatiq's private consumer:
the version is pinned, and tests/contracts/test_broker.py guards the names used.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any, cast

import dramatiq
import msgspec
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.common import dq_name
from dramatiq.encoder import Encoder
from dramatiq.errors import ConnectionClosed, DecodeError
from dramatiq.middleware import (
    AgeLimit,
    CurrentMessage,
    Middleware,
    Retries,
    ShutdownNotifications,
    TimeLimit,
)
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers import log
from workers.alive import say_alive
from workers.settings import settings

NAMESPACE = "tocsin"
HEARTBEAT_TIMEOUT = 10_000
"""Milliseconds without a sign after which a worker's messages go back to their queue."""
MAINTENANCE_CHANCE = 50_000
"""Of a million fetches, how many look for such workers."""
IDLE_WAIT = 0.5
"""Seconds an idle consumer waits on its list before it looks after itself."""
TRIES = 3
"""How often a message whose actor raised is run again: that is a bug, never a provider's refusal."""

_PR_SET_PDEATHSIG = 1


class JsonEncoder(Encoder):
    """Messages as JSON by msgspec, which knows our structs and ids."""

    def encode(self, data: dict[str, Any]) -> bytes:
        return msgspec.json.encode(data)

    def decode(self, data: bytes) -> dict[str, Any]:
        try:
            return cast(dict[str, Any], msgspec.json.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError("not a message", data, error) from None


class Consumer(_RedisConsumer):
    """Waits on the list instead of sleeping; every way Redis can fail reads as a lost connection, after which
    Dramatiq starts the consumer anew."""

    def ack(self, message: Any) -> None:
        try:
            super().ack(message)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None

    def nack(self, message: Any) -> None:
        try:
            super().nack(message)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None

    def __next__(self) -> Any:
        try:
            if not self.message_cache and self.outstanding_message_count < self.prefetch:
                key = f"{self.broker.namespace}:{self.queue_name}"
                if self.broker.client.blmove(key, key, IDLE_WAIT, "LEFT", "LEFT") is None:
                    self.broker.do_fetch(self.queue_name, 0)  # heartbeat and maintenance; takes nothing
                    return None
            self.misses = 0  # an empty or full moment is over in milliseconds: never sleep longer
            return super().__next__()  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None


class Broker(RedisBroker):
    @property
    def consumer_class(self) -> type[Consumer]:
        return Consumer


class Process(Middleware):
    """What each worker process does at birth: logs as JSON, dies with its parent (Linux), says it is alive."""

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        name = os.environ.get("TOCSIN_PROCESS", "worker")
        log.configure(name)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        say_alive(cast(Broker, broker).client, name)


class Log(Middleware):
    """One line per message that was worked off; Dramatiq itself logs one that failed."""

    def __init__(self) -> None:
        self._thread = threading.local()

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
        self._thread.began = time.perf_counter()

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: Any,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        if exception is None:
            log.logger().info(
                "message_done",
                actor=message.actor_name,
                queue=message.queue_name,
                message=message.message_id,
                items=sum(len(value) for value in message.args[0].values() if isinstance(value, list)),
                took=round(time.perf_counter() - self._thread.began, 4),
            )


class Bury(Middleware):
    """A message whose tries are spent is a bug: kept in `dead_letters`, with its cause, for whoever mends it."""

    def after_nack(self, broker: dramatiq.Broker, message: Any) -> None:
        from workers.resources import pool

        with pool().connection() as connection:
            connection.execute(
                "INSERT INTO dead_letters (queue, actor, message, cause, trace) VALUES (%s, %s, %s, %s, %s)",
                (
                    message.queue_name,
                    message.actor_name,
                    msgspec.json.encode({"args": message.args, "kwargs": message.kwargs}).decode(),
                    (message.options.get("traceback") or "unknown").strip().splitlines()[-1],
                    message.options.get("traceback") or "",
                ),
            )


def connect() -> Broker:
    """The broker of this process. Its Redis client never retries by itself: a repeated fetch would strand what
    the first one took, a repeated enqueue would run twice."""
    client = redis.Redis.from_url(
        settings().redis,
        socket_timeout=5,
        socket_connect_timeout=2,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 0),
    )
    return Broker(  # type: ignore[no-untyped-call]
        client=client,
        namespace=NAMESPACE,
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        maintenance_chance=MAINTENANCE_CHANCE,
        middleware=[
            AgeLimit(),
            TimeLimit(time_limit=60_000),
            ShutdownNotifications(),
            CurrentMessage(),
            Retries(max_retries=TRIES, min_backoff=1_000, max_backoff=10_000),
            Process(),
            Log(),
            Bury(),
        ],
    )


def queue_keys(queue: str) -> tuple[str, str]:
    """The Redis hashes that hold a queue's messages: due ones (waiting or running), and those to be retried."""
    return f"{NAMESPACE}:{queue}.msgs", f"{NAMESPACE}:{dq_name(queue)}.msgs"


dramatiq.set_encoder(JsonEncoder())
dramatiq.set_broker(connect())
