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
from workers import stream_door
from workers.alive import Alive, living
from workers.queues import STREAM, Queue, look
from workers.resources import pool, redis_client
from workers.settings import settings

_ROWS = """
SELECT 'events', 'at_the_sql_door', count(*), min(created_at) FROM events WHERE accepted_at IS NULL
UNION ALL
SELECT 'events', 'unrouted', count(*), min(greatest(accepted_at, send_at)) FROM events
WHERE routed_count < recipient_count AND greatest(accepted_at, send_at) <= now()
UNION ALL
SELECT 'timers', 'waiting', count(*), min(created_at) FROM timers
UNION ALL
SELECT 'deliveries', state, count(*), min(created_at) FROM deliveries
WHERE state IN ('held', 'pending', 'sending', 'retrying') GROUP BY state
UNION ALL
SELECT 'deliveries', 'dead', count(*), min(created_at) FROM deliveries WHERE state = 'dead'
UNION ALL
SELECT 'deliveries', state || '_today', count(*), min(created_at) FROM deliveries
WHERE id >= %s AND state NOT IN ('held', 'pending', 'sending', 'retrying', 'dead') GROUP BY state
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


class Door(msgspec.Struct):
    """A door that refuses (`closed`) while more than `limit` events wait behind it. The API's is as seen here: its
    processes look for themselves, every few seconds."""

    door: str
    closed: bool
    waiting: int
    limit: int


class Status(msgspec.Struct):
    doors: list[Door]
    queues: list[Queue]
    rows: list[Rows]
    processes: list[Alive]


def rows(connection: Connection) -> list[Rows]:
    """Open and dead ones in full, from partial indexes; others since this time yesterday, from the ids' order."""
    now = datetime.now(UTC)
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = '5s'")
        found = connection.execute(_ROWS, (first_id_at(now - timedelta(days=1)),))
    return [
        Rows(table, state, count, max(0.0, (now - first).total_seconds()) if first else None)
        for table, state, count, first in found
    ]


def status(connection: Connection) -> Status:
    """Raises psycopg.Error or redis.RedisError when a server is away."""
    queues, found = look(redis_client()), rows(connection)
    return Status([http(found), stream(queues)], queues, found, living(redis_client()))


def http(found: list[Rows]) -> Door:
    (waiting,) = (row.count for row in found if (row.table, row.state) == ("events", "unrouted"))
    return Door("http", waiting > settings().backlog_limit, waiting, settings().backlog_limit)


def stream(queues: list[Queue]) -> Door:
    (waiting,) = (queue.depth for queue in queues if queue.name == STREAM)
    return Door("stream", stream_door.is_closed(redis_client()), waiting, settings().stream_limit)


class QueueCollector(Collector):
    """Depth and age of every queue at the moment of a scrape; a server that is away leaves its numbers out."""

    def collect(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("tocsin_queue_depth", "Messages waiting or running", labels=["queue"])
        oldest = GaugeMetricFamily("tocsin_queue_oldest_seconds", "Age of the first waiting", labels=["queue"])
        count = GaugeMetricFamily("tocsin_rows", "Rows by state", labels=["table", "state"])
        age = GaugeMetricFamily("tocsin_rows_oldest_seconds", "Age of the oldest row", labels=["table", "state"])
        closed = GaugeMetricFamily("tocsin_door_closed", "1 while the door refuses events", labels=["door"])
        try:
            queues = look(redis_client())
            for queue in queues:
                depth.add_metric([queue.name], queue.depth)
                oldest.add_metric([queue.name], queue.oldest or 0)
            closed.add_metric(["stream"], stream(queues).closed)
            with pool().connection(timeout=1) as connection:
                found = rows(connection)
                for row in found:
                    count.add_metric([row.table, row.state], row.count)
                    age.add_metric([row.table, row.state], row.oldest or 0)
            closed.add_metric(["http"], http(found).closed)
        except (redis.RedisError, psycopg.Error, PoolTimeout):
            yield from (depth, oldest, closed)
            return
        yield from (depth, oldest, count, age, closed)

    def describe(self) -> Iterator[Metric]:
        return iter(())
