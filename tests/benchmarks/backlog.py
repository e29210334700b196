"""A million events that wait: what every process holds in memory before, during and after, and how fast it goes.

Not part of the usual run, for it takes minutes: `make bench ARGS="--only backlog"`.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.benchmarks.bench import Bench, make_users, sent, wait_sent
from tests.benchmarks.connections import memory_kib
from tests.benchmarks.cpu import families
from tests.benchmarks.producer import STREAM, producing
from tests.benchmarks.report import Row

EVENTS = 1_000_000
SECONDS = 1_200


def measure(bench: Bench) -> dict[str, Any]:
    bench.start_fleet()
    count = 5_000 if bench.quick else EVENTS
    users = count // 2
    make_users(bench.servers.database_url, "backlog", users)
    with psycopg.connect(bench.servers.database_url, autocommit=True) as database, bench.redis() as client:
        database.execute("ANALYZE")
        before = memory(bench)
        already = sent(database)
        with producing(bench, "backlog", users, count) as producer, watched(bench) as most:
            producer.go()
            began, added = producer.times()
            waiting = int(str(client.xlen(STREAM)))
            ended = wait_sent(database, already + count, SECONDS)
        time.sleep(2)
        after = memory(bench)
    return {
        "events": count,
        "added_per_second": round(count / (added - began)),
        "waiting_when_all_were_added": waiting,
        "delivered_per_second": round(count / (ended - began)),
        "seconds": round(ended - began, 1),
        "mib": {name: [before[name], most.get(name, 0), after[name]] for name in before},
    }


@contextmanager
def watched(bench: Bench) -> Iterator[dict[str, int]]:
    """The most that each process held, looked at every second."""
    most: dict[str, int] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            for name, mib in memory(bench).items():
                most[name] = max(most.get(name, 0), mib)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def memory(bench: Bench) -> dict[str, int]:
    """MiB of each process with its children; what several share is counted once, by their shares."""
    return {name: sum(map(_kib, pids)) // 1024 for name, pids in families(bench).items()}


def _kib(pid: int) -> int:
    try:
        return memory_kib(pid)
    except (OSError, ValueError):  # it ended meanwhile
        return 0


def rows(found: dict[str, Any], _: dict[str, Any]) -> list[Row]:
    each = ", ".join(f"{name} {' → '.join(map(str, mib))}" for name, mib in found["mib"].items())
    return [
        Row(
            f"{found['events']:,} events added to the stream at {found['added_per_second']:,}/s",
            f"all delivered after {found['seconds']:,.0f} s, {found['delivered_per_second']:,}/s",
            note=f"{found['waiting_when_all_were_added']:,} waited in the stream when the last was added",
        ),
        Row("… MiB of each process", "before → most → after", note=each),
    ]
