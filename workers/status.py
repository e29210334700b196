"""What the fleet looks like now: queues, rows by state, processes. Behind `tocsin status` and `/metrics`."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import psycopg
import redis
from dramatiq.common import xq_name
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg import Connection
from psycopg_pool import PoolTimeout

from schema.identity import first_id_at
from workers.alive import Alive, living
from workers.broker import NAMESPACE, queue_keys
from workers.channels import CHANNELS
from workers.intake import STREAM
from workers.resources import pool, redis_client

QUEUES = ("pipeline", *(f"deliver-{channel.NAME}" for channel in CHANNELS))

_ROWS = """
SELECT 'events', 'at_the_sql_door', count(*), min(created_at) FROM events WHERE accepted_at IS NULL
UNION ALL
SELECT 'events', 'unrouted', count(*), min(accepted_at) FROM events
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


class Queue(msgspec.Struct):
    """`depth`: waiting and running. `oldest`: seconds since the first waiting one was sent; None if none waits."""

    name: str
    depth: int
    oldest: float | None
    retrying: int = 0
    dead: int = 0


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


def queues(client: redis.Redis) -> list[Queue]:
    """The stream's queue, and Dramatiq's; two trips."""
    found = [Queue(STREAM, *_stream(client))]
    pipe = client.pipeline(transaction=False)
    for name in QUEUES:
        messages, delayed = queue_keys(name)
        pipe.hlen(messages)
        pipe.hlen(delayed)
        pipe.zcard(f"{NAMESPACE}:{xq_name(name)}")
        pipe.lindex(f"{NAMESPACE}:{name}", 0)
    answers = pipe.execute()
    for index, name in enumerate(QUEUES):
        depth, delayed, dead, first = answers[4 * index : 4 * index + 4]
        oldest = None
        if first and (raw := cast("bytes | None", client.hget(queue_keys(name)[0], first))):
            oldest = _age(msgspec.json.decode(raw).get("message_timestamp"))
        found.append(Queue(name, depth, oldest, delayed, dead))
    return found


def _stream(client: redis.Redis) -> tuple[int, float | None]:
    depth = client.xlen(STREAM)
    first = cast("list[tuple[bytes, Any]]", client.xrange(STREAM, count=1)) if depth else []
    return depth, _age(int(first[0][0].split(b"-")[0])) if first else None


def _age(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else max(0.0, round(time.time() - milliseconds / 1000, 3))


def rows(connection: Connection) -> list[Rows]:
    """Open states in full, from partial indexes; closed ones since this time yesterday, from the ids' order."""
    now = datetime.now(UTC)
    connection.execute("SET LOCAL statement_timeout = '5s'")
    found = connection.execute(_ROWS, (first_id_at(now - timedelta(days=1)),))
    return [
        Rows(table, state, count, max(0.0, (now - first).total_seconds()) if first else None)
        for table, state, count, first in found
    ]


def status() -> Status:
    """Raises psycopg.Error, PoolTimeout or redis.RedisError when a server is away."""
    with pool().connection() as connection:
        found = rows(connection)
    return Status(queues(redis_client()), found, living(redis_client()))


class QueueCollector(Collector):
    """Depth and age of every queue at the moment of a scrape; a server that is away leaves its numbers out."""

    def collect(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("tocsin_queue_depth", "Messages waiting or running", labels=["queue"])
        oldest = GaugeMetricFamily("tocsin_queue_oldest_seconds", "Age of the first waiting", labels=["queue"])
        count = GaugeMetricFamily("tocsin_rows", "Rows by state", labels=["table", "state"])
        age = GaugeMetricFamily("tocsin_rows_oldest_seconds", "Age of the oldest row", labels=["table", "state"])
        try:
            for queue in queues(redis_client()):
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
