"""How `tocsin status` knows which processes live: each says so in Redis every few seconds."""

import os
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import redis

from workers.log import logger

INTERVAL = 3.0
"""Seconds between two signs of life."""
EXPIRES = 10
"""Seconds after which a silent process is no longer listed."""
PREFIX = "tocsin:alive:"


class Alive(msgspec.Struct):
    process: str
    host: str
    pid: int
    since: datetime


def say_alive(client: redis.Redis, process: str) -> Callable[[], None]:
    """Starts a thread that reports this process; call what is returned to take leave before the process ends. A
    Redis that is away is tried again, quietly: then nobody can read the report either."""
    me = Alive(process, socket.gethostname(), os.getpid(), datetime.now(UTC))
    key = f"{PREFIX}{me.process}:{me.host}:{me.pid}"
    stop = threading.Event()

    def report() -> None:
        while not stop.is_set():
            try:
                client.set(key, msgspec.json.encode(me), ex=EXPIRES)
            except redis.RedisError as error:
                logger().debug("alive_not_reported", error=type(error).__name__)
            stop.wait(INTERVAL)
        try:
            client.delete(key)
        except redis.RedisError:
            return

    thread = threading.Thread(target=report, name="alive", daemon=True)
    thread.start()

    def take_leave() -> None:
        stop.set()
        thread.join(1)

    return take_leave


def living(client: redis.Redis) -> list[Alive]:
    """The processes that reported within the last seconds, by name and pid."""
    keys = list(client.scan_iter(match=f"{PREFIX}*", count=1000))
    values = client.mget(keys) if keys else []
    found = [msgspec.json.decode(value, type=Alive) for value in values if value]
    return sorted(found, key=lambda alive: (alive.process, alive.host, alive.pid))
