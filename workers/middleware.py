"""What surrounds every message: retries of bugs, dead letters, one log line; and the life of a worker process."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import Any

import dramatiq
import msgspec
import redis
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import Middleware, Retries
from structlog.contextvars import clear_contextvars

from schema.errors import TocsinError
from workers import log
from workers.alive import say_alive
from workers.patience import AWAY, stopping
from workers.settings import settings

TRIES = 3
"""How often a message whose actor raised is run again: that is a bug, never a provider's refusal."""
REDIS_PAUSE = 0.5
"""Seconds between two tries to reach a Redis that is away."""
DEAF = 20.0
"""Seconds without a fetch after which a queue's consumer is taken for dead, and the process ends itself."""

_PR_SET_PDEATHSIG = 1


class SafeRetries(Retries):
    """Runs a message again when its actor raised. While Redis is away it waits: the stock middleware's failure
    to enqueue is swallowed, and the message acknowledged and gone (Dramatiq #545)."""

    def __init__(self) -> None:
        super().__init__(max_retries=TRIES, min_backoff=1_000, max_backoff=10_000)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: Any,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        for part in message.options.get("parts", (message,)):  # gathered ones travel alone from now on
            retries = part.options.get("retries")
            while True:
                try:
                    super().after_process_message(broker, part, result=result, exception=exception)  # type: ignore[no-untyped-call]
                    break
                except ConnectionClosed:
                    part.options["retries"] = retries or 0
                    time.sleep(REDIS_PAUSE)


class Process(Middleware):
    """What each worker process does at birth: logs as JSON, dies with its parent (Linux), says it is alive, and
    ends itself when one of its consumers is dead or deaf, so that whoever supervises it starts another."""

    def after_process_boot(self, broker: Any) -> None:
        from workers.resources import resources

        name = settings().process
        log.configure(name)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        parent = multiprocessing.parent_process()
        if parent and os.getppid() != parent.pid:
            os._exit(1)  # it died before it could have told us
        try:
            resources()
        except TocsinError as error:  # a template or a setting that is wrong: said once, and by nothing else
            log.logger().critical("cannot_start", error=str(error))
            sys.exit(1)  # in order: Dramatiq's master waits to be told that this process booted, or did not
        say_alive(broker.client, name)
        stopping.clear()
        threading.Thread(target=watch, args=(broker,), name="watch", daemon=True).start()

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: object) -> None:
        stopping.set()


def watch(broker: Any) -> None:
    """Looks at the consumers for as long as the process lives. Time in which Redis was away, or this process was
    suspended, does not count."""
    reachable_since = time.monotonic()
    while True:
        began = time.monotonic()
        time.sleep(1)
        try:
            broker.client.ping()
        except redis.RedisError:
            reachable_since = time.monotonic()
        if time.monotonic() - began > DEAF / 2:
            reachable_since = time.monotonic()
        for queue, at in list(broker.polled.items()):
            silent = time.monotonic() - max(at, reachable_since)
            if silent > DEAF:
                log.logger().critical("consumer_deaf", queue=queue, seconds=round(silent))
                os._exit(1)


class Log(Middleware):
    """One line per message that was worked off, with what its actor bound; Dramatiq logs one that failed."""

    def __init__(self) -> None:
        self._thread = threading.local()

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
        clear_contextvars()
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
                took=round(time.perf_counter() - self._thread.began, 4),
            )


class Bury(Middleware):
    """A message whose tries are spent is a bug: kept in `dead_letters`, with its cause, for whoever mends it."""

    def after_nack(self, broker: dramatiq.Broker, message: Any) -> None:
        error = message._exception
        trace = message.options.get("traceback") or repr(error)
        content = msgspec.json.encode({"args": message.args, "kwargs": message.kwargs})
        bury(message.queue_name, message.actor_name, content, cause(error, trace), trace)


def cause(error: BaseException | None, trace: str) -> str:
    """What ended it, on one line: the error's name and the first line of what it says."""
    if error is None:
        return trace.strip().splitlines()[-1]
    name = type(error).__name__
    says = str(error).strip().splitlines()
    return f"{name}: {says[0]}" if says else name


def bury(queue: str, actor: str, message: bytes, cause: str, trace: str) -> None:
    """Writes a dead letter. While Postgres is away it is only logged; Redis keeps a copy for a week."""
    from workers.resources import pool

    text = message.decode(errors="backslashreplace").replace("\0", "\\u0000")
    try:
        with pool().connection() as connection:
            connection.execute(
                "INSERT INTO dead_letters (queue, actor, message, cause, trace) VALUES (%s, %s, %s, %s, %s)",
                (queue, actor, text, cause, trace),
            )
    except AWAY as error:
        log.logger().error("dead_letter_not_written", queue=queue, actor=actor, error=type(error).__name__)
