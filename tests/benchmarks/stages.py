"""What each step costs by itself, in one process, with nothing beside it: in batches of 500, on a new database.

python -m tests.benchmarks.stages BATCHES        (the child; says its findings as JSON)
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any, TypeVar

import msgspec
import psycopg

from tests.benchmarks.bench import Bench, Failed, make_users
from tests.benchmarks.producer import event
from tests.benchmarks.report import Row

BATCH = 500
USERS = 5_000
ALONE = 1
"""The numbered database of Valkey that no fleet looks at."""
_WRITTEN = """
SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables
WHERE n_tup_ins + n_tup_upd + n_tup_del > 0
"""
T = TypeVar("T")


def measure(bench: Bench) -> dict[str, Any]:
    bench.stop_fleet()
    url = bench.database("stages")
    make_users(url, "stages", USERS)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ANALYZE")
    # A server process tells its counts for certain when it ends, so each look is through a connection of its own.
    before = _written(url)
    batches = 6 if bench.quick else 20
    variables = {"DATABASE_URL": url, "REDIS_URL": bench.redis_url(ALONE)}
    with bench.child("stages", batches, **variables) as child:
        told, _ = child.communicate(timeout=120)
    if child.returncode:
        raise Failed("the stages failed; their traceback is above")
    after = _settled(url, batches * BATCH)
    rows_written = {
        table: round((after[table] - before.get(table, 0)) / (batches * BATCH), 3)
        for table in sorted(after)
        if after[table] > before.get(table, 0)
    }
    return {
        "batch": BATCH,
        "batches": batches,
        "us_per_notification": json.loads(told),
        "rows_written_per_notification": round(sum(rows_written.values()), 3),
        "rows_written": rows_written,
    }


def _written(url: str) -> dict[str, int]:
    """Rows inserted, updated and deleted so far; partitions under the name of their table."""
    found: dict[str, int] = defaultdict(int)
    with psycopg.connect(url) as connection:
        for table, *counts in connection.execute(_WRITTEN):
            found[table.split("_20")[0]] += sum(counts)
    return dict(found)


def _settled(url: str, events: int) -> dict[str, int]:
    """The counts once those of the ended child have come in: it inserted so many events."""
    deadline = time.monotonic() + 15
    while (found := _written(url)).get("events", 0) < 2 * events:
        if time.monotonic() > deadline:
            raise Failed("PostgreSQL did not tell how many rows were written")
        time.sleep(0.1)
    return found


def rows(found: dict[str, Any], _: dict[str, Any]) -> list[Row]:
    steps: dict[str, dict[str, float]] = found["us_per_notification"]
    wall, cpu = (sum(step[kind] for step in steps.values()) for kind in ("wall", "cpu"))
    each = ", ".join(f"{name} {step['wall']:.0f} ({step['cpu']:.0f})" for name, step in steps.items())
    written = found["rows_written_per_notification"]
    tables = ", ".join(f"{table} {n:.2f}" for table, n in found["rows_written"].items())
    return [
        Row(
            f"all steps of a notification, batches of {found['batch']}",
            f"{wall:.0f} µs, {cpu:.0f} of them Python's CPU",
            note=f"µs (CPU): {each}",
        ),
        Row(
            "rows written per recipient, web only",
            f"{written:.2f}",
            "≤ 6",
            "✓" if written < 6.5 else "✗",
            tables,
        ),
    ]


class Stopwatch:
    """Wall and CPU time of each step; one that a batch does several times counts as often."""

    def __init__(self) -> None:
        self._wall: dict[str, list[float]] = defaultdict(list)
        self._cpu: dict[str, list[float]] = defaultdict(list)

    def time(self, step: str, work: Callable[[], T]) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        done = work()
        self._wall[step].append(time.perf_counter() - wall)
        self._cpu[step].append(time.process_time() - cpu)
        return done

    def us_per_notification(self, batches: int) -> dict[str, dict[str, float]]:
        """From the medians, which one batch that waited for the disk does not move."""
        scale = 1e6 / BATCH / batches
        return {
            step: {
                "wall": round(median(walls) * len(walls) * scale, 2),
                "cpu": round(median(self._cpu[step]) * len(walls) * scale, 2),
            }
            for step, walls in self._wall.items()
        }


def child(batches: int) -> None:
    """The whole way of a batch, step after step, without the queues between them."""
    from dramatiq import Message

    from pipelines import STAGES, accept
    from pipelines.fan_out import fan_out
    from schema.notification import Notification
    from schema.wire import Batch, read
    from workers import deliver
    from workers.chain import ACTORS
    from workers.channels import web
    from workers.queues import PIPELINE
    from workers.resources import pool, resources

    use, watch = resources(), Stopwatch()

    def hop(batch: list[Notification]) -> list[Notification]:
        """What the queue does to a batch: out of a door's process, into the chain's."""
        message = Message.decode(ACTORS[PIPELINE].message(Batch(batch)).encode())
        return read(message.args[0], Batch).notifications

    for number in range(batches):
        raws = [
            msgspec.json.encode(event(n, "stages", USERS)) for n in range(number * BATCH, (number + 1) * BATCH)
        ]
        arrivals = watch.time("read", lambda: [accept.read(raw, use.catalog) for raw in raws])  # noqa: B023
        with pool().connection() as connection:
            calls = [[arrival] for arrival in arrivals]
            _, ready = watch.time("accept", lambda: accept.accept(connection, "stream", calls))  # noqa: B023
        batch = watch.time("address", lambda: [n for e in ready for n in accept.address(e, use.catalog)])  # noqa: B023
        batch = watch.time("wire", lambda: hop(batch))  # noqa: B023
        for stage in STAGES:
            batch = watch.time(stage.__name__, lambda: stage(batch, use))  # noqa: B023
        (ids,) = watch.time("fan_out", lambda: fan_out(batch, use)).values()  # noqa: B023
        watch.time("deliver", lambda: deliver.deliver(web, ids, use))  # noqa: B023
    pool().close()
    print(json.dumps(watch.us_per_notification(batches)))  # noqa: T201


if __name__ == "__main__":
    child(int(sys.argv[1]))
