"""The clock: what is due by time. Any number of copies; each duty claims its rows with FOR UPDATE SKIP LOCKED,
does a bounded amount per round, and may be repeated."""

import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import redis
from dramatiq.errors import ConnectionClosed
from psycopg import Connection, OperationalError
from psycopg_pool import PoolTimeout

from pipelines.accept import Accepted
from pipelines.fan_out import RESEND_AFTER
from schema.partitions import statements
from workers import log
from workers.alive import say_alive
from workers.chain import start
from workers.deliver import send_deliveries
from workers.resources import pool, redis_client

ROUND = 1000
"""Rows a duty takes in one round."""

_TIMERS = """
WITH due AS (
    DELETE FROM timers WHERE key IN (
        SELECT key FROM timers WHERE kind = 'event' AND due_at <= now()
        ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED
    ) RETURNING subject
)
SELECT id, type, recipients, importance, group_key, accepted_at FROM events JOIN due ON id = subject
"""
_UNROUTED = """
SELECT id, type, recipients, importance, group_key, accepted_at FROM events
WHERE routed_count < recipient_count AND accepted_at < now() - %s
    AND coalesce(send_at, accepted_at) < now() - %s
ORDER BY accepted_at LIMIT %s
"""
_UNSENT = """
UPDATE deliveries SET next_attempt_at = now() + %s WHERE id IN (
    SELECT id FROM deliveries WHERE state IN ('pending', 'retrying') AND next_attempt_at <= now()
    ORDER BY next_attempt_at LIMIT %s FOR UPDATE SKIP LOCKED
) RETURNING id, channel
"""


def release_timers(connection: Connection) -> int:
    """Starts events whose send_at has come. A crash after the commit leaves them to rescue_events."""
    due = [Accepted(*row) for row in connection.execute(_TIMERS, (ROUND,))]
    connection.commit()
    start(due)
    return len(due)


def rescue_events(connection: Connection) -> int:
    """Starts accepted events again that were not routed in time: their message was lost."""
    lost = [Accepted(*row) for row in connection.execute(_UNROUTED, (RESEND_AFTER, RESEND_AFTER, ROUND))]
    connection.commit()
    start(lost)
    return len(lost)


def rescue_deliveries(connection: Connection) -> int:
    """Sends deliveries again whose time has come: retries due, and those whose message was lost."""
    rows = connection.execute(_UNSENT, (RESEND_AFTER, ROUND)).fetchall()
    connection.commit()
    for channel in {channel for _, channel in rows}:
        send_deliveries(channel, [id_ for id_, of in rows if of == channel])
    return len(rows)


def make_partitions(connection: Connection) -> int:
    """The months to come of the partitioned tables."""
    for statement in statements(datetime.now(UTC)):
        connection.execute(statement)
    return 0


DUTIES: tuple[tuple[Callable[[Connection], int], float], ...] = (
    (release_timers, 0.5),
    (rescue_deliveries, 1),
    (rescue_events, 5),
    (make_partitions, 3600),
)
"""Each duty, and the seconds between two rounds of it."""


def run(stop: threading.Event) -> None:
    """Does every duty when it is due, until stopped. A full round is followed by the next at once."""
    due = dict.fromkeys((duty for duty, _ in DUTIES), 0.0)
    while not stop.is_set():
        for duty, interval in DUTIES:
            if time.monotonic() < due[duty]:
                continue
            due[duty] = time.monotonic() + interval
            try:
                with pool().connection() as connection:
                    done = duty(connection)
            except (OperationalError, PoolTimeout, redis.RedisError, ConnectionClosed) as error:
                log.logger().warning("clock_waits", duty=duty.__name__, error=type(error).__name__)
                continue
            if done:
                log.logger().info("clock_did", duty=duty.__name__, rows=done)
            if done >= ROUND:
                due[duty] = 0.0
        stop.wait(max(0.05, min(due.values()) - time.monotonic()))


def main() -> None:
    log.configure("clock")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    alive = say_alive(redis_client(), "clock")
    run(stop)
    alive.set()
    pool().close()


if __name__ == "__main__":
    main()
