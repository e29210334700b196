"""What the fleet looks like now: queues, rows by state, processes. Behind `tocsin status` and `/metrics`."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
import redis
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg import Connection
from psycopg_pool import PoolTimeout

from schema.identity import first_id_at
from workers.alive import Alive, living
from workers.queues import Queue, look
from workers.resources import pool, redis_client

_ROWS = """
SELECT 'events', 'at_the_sql_door', count(*), min(created_at) FROM events WHERE accepted_at IS NULL
UNION ALL
SELECT 'events', 'unrouted', count(*), min(greatest(accepted_at, send_at)) FROM events
WHERE routed_count < recipient_count AND coalesce(send_at, now()) <= now()
UNION ALL
SELECT 'timers', 'waiting', count(*), min(created_at) FROM timers
UNION ALL
SELECT 'deliveries', state, count(*), min(created_at) FROM deliveries
WHERE state IN ('pending', 'retrying') GROUP BY state
UNION ALL
SELECT 'deliveries', state || '_today', count(*), min(created_at) FROM deliveries
WHERE id >= %s AND state NOT IN ('pending', 'retrying') GROUP BY state
UNION ALL
SELECT 'rejected_events', 'kept', count(*), min(created_at) FROM rejected_events
UNION ALL
SELECT 'dead_letters', 'kept', count(*), min(created_at) FROM dead_letters
"""


class Rows(msgspec.Struct):
    """`oldest`: seconds since the first of them came."""

    table: str
    state: str
    count: int
    oldest: float | None


class Status(msgspec.Struct):
    queues: list[Queue]
    rows: list[Rows]
    processes: list[Alive]


def rows(connection: Connection) -> list[Rows]:
    """Open states in full, from partial indexes; closed ones since this time yesterday, from the ids' order."""
    now = datetime.now(UTC)
    connection.execute("SET LOCAL statement_timeout = '5s'")
    found = connection.execute(_ROWS, (first_id_at(now - timedelta(days=1)),))
    return [
        Rows(table, state, count, max(0.0, (now - first).total_seconds()) if first else None)
        for table, state, count, first in found
    ]


def status(connection: Connection) -> Status:
    """Raises psycopg.Error or redis.RedisError when a server is away."""
    return Status(look(redis_client()), rows(connection), living(redis_client()))


class QueueCollector(Collector):
    """Depth and age of every queue at the moment of a scrape; a server that is away leaves its numbers out."""

    def collect(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("tocsin_queue_depth", "Messages waiting or running", labels=["queue"])
        oldest = GaugeMetricFamily("tocsin_queue_oldest_seconds", "Age of the first waiting", labels=["queue"])
        count = GaugeMetricFamily("tocsin_rows", "Rows by state", labels=["table", "state"])
        age = GaugeMetricFamily("tocsin_rows_oldest_seconds", "Age of the oldest row", labels=["table", "state"])
        try:
            for queue in look(redis_client()):
                depth.add_metric([queue.name], queue.depth)
                oldest.add_metric([queue.name], queue.oldest or 0)
            with pool().connection(timeout=1) as connection:
                for row in rows(connection):
                    count.add_metric([row.table, row.state], row.count)
                    age.add_metric([row.table, row.state], row.oldest or 0)
        except (redis.RedisError, psycopg.Error, PoolTimeout):
            yield from (depth, oldest)
            return
        yield from (depth, oldest, count, age)

    def describe(self) -> Iterator[Metric]:
        return iter(())
