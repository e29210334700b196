"""Waiting for a server that is away: an outage is an outcome, not a crash."""

import threading
from collections.abc import Callable
from typing import TypeVar

import psycopg
import redis
from dramatiq.errors import ConnectionClosed
from psycopg_pool import PoolTimeout

from workers.log import logger

AWAY = (psycopg.OperationalError, PoolTimeout, redis.RedisError, ConnectionClosed)
"""What Postgres or Redis raise when they are away, or the connection to them is."""
PAUSE = 0.5
"""Seconds between two tries."""

T = TypeVar("T")

stopping = threading.Event()
"""Set when this process is to end: nobody waits any longer."""


def patiently(work: Callable[[], T]) -> T:
    """Does `work`, which may be repeated safely, as often as it takes until the servers are back. What it was
    given stays in hand meanwhile. When the process is to end, the error is raised instead."""
    waited = False
    while True:
        try:
            answer = work()
        except psycopg.errors.QueryCanceled:
            raise  # it took too long by itself; repeating it would, too
        except AWAY as error:
            if stopping.is_set():
                raise
            if not waited:
                logger().warning("waiting_for_a_server", error=type(error).__name__)
            waited = True
            stopping.wait(PAUSE)
        else:
            if waited:
                logger().info("server_is_back")
            return answer
