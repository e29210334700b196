"""Events a second, from the first one that is sent to the last delivery that is settled.

Single-recipient comments. Their users, and the users' inboxes, are there before: making a user is not measured.
Each run has users of its own, two events for each, so that every event is charged to a rate limit and looked at
for grouping, and none is suppressed or folded.
"""

import asyncio
import statistics
import time
from typing import Any

import msgspec
import psycopg

from tests.benchmarks.bench import Bench, Failed, make_users, sent, wait_sent
from tests.benchmarks.client import post_all
from tests.benchmarks.cpu import cpu_seconds, spent
from tests.benchmarks.producer import event, producing
from tests.benchmarks.report import Row

_SHOWN = """
SELECT count(*) FROM deliveries d JOIN notifications n ON n.id = d.notification_id
WHERE starts_with(d.user_id, %s) AND d.state = 'sent' AND n.seq IS NOT NULL AND n.group_id IS NULL
"""


def measure(bench: Bench) -> dict[str, Any]:
    bench.start_fleet()
    count = 1_000 if bench.quick else 20_000
    rates = []
    with psycopg.connect(bench.servers.database_url, autocommit=True) as database, bench.redis() as client:
        stream(bench, database, "warm", count // 10)
        database.execute("ANALYZE")  # as autovacuum would have, on a system that is not a minute old
        before = cpu_seconds(bench)
        client.config_resetstat()
        for run in range(1 if bench.quick else 2):
            rates.append(stream(bench, database, f"stream{run}", count))
        done = count * len(rates)
        commands = redis_commands(client.info("commandstats"))
        cpu = {name: round(used / done * 1e6, 1) for name, used in spent(bench, before).items()}
        one_by_one = http(bench, database, "single", 300 if bench.quick else 3_000, 1)
        in_arrays = http(bench, database, "array", count // 2, 100)
    return {
        "events_per_run": count,
        "stream": {
            "runs": rates,
            "best": max(rates),
            "median": statistics.median(rates),
            "spread_percent": round((max(rates) - min(rates)) / statistics.median(rates) * 100, 1),
        },
        "cpu_us_per_event": cpu,
        "redis_commands_per_event": round(sum(commands.values()) / done, 2),
        "redis_commands": {name: round(calls / done, 3) for name, calls in commands.items()},
        "http_one_by_one": one_by_one,
        "http_arrays_of_100": in_arrays,
    }


def stream(bench: Bench, database: psycopg.Connection[Any], prefix: str, count: int) -> float:
    """Events a second through the stream."""
    users = count // 2
    make_users(bench.servers.database_url, prefix, users)
    before = sent(database)
    with producing(bench, prefix, users, count) as producer:
        producer.go()
        ended = wait_sent(database, before + count)
        began, _ = producer.times()
    _check(database, prefix, count)
    return round(count / (ended - began), 1)


def http(
    bench: Bench, database: psycopg.Connection[Any], prefix: str, count: int, together: int
) -> dict[str, float]:
    """Events a second over 32 connections, until the last 202 and until the last delivery."""
    users = count // 2
    make_users(bench.servers.database_url, prefix, users)
    events = [event(n, prefix, users) for n in range(count)]
    bodies = [
        msgspec.json.encode(events[at] if together == 1 else events[at : at + together])
        for at in range(0, count, together)
    ]
    before, began = sent(database), time.monotonic()
    asyncio.run(post_all(bench.api_port, bodies, 32))
    answered = time.monotonic()
    ended = wait_sent(database, before + count)
    _check(database, prefix, count)
    return {
        "events": count,
        "accepted_per_second": round(count / (answered - began), 1),
        "delivered_per_second": round(count / (ended - began), 1),
    }


def _check(database: psycopg.Connection[Any], prefix: str, count: int) -> None:
    row = database.execute(_SHOWN, (f"{prefix}-",)).fetchone()
    if row != (count,):
        raise Failed(f"{count:,} events of {prefix} became {row and row[0]:,} sent and shown notifications")


def redis_commands(stats: Any) -> dict[str, int]:
    """Calls by command, those that scripts make among them; the most frequent first."""
    calls = {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}
    return dict(sorted(calls.items(), key=lambda item: -item[1]))


def rows(found: dict[str, Any], _: dict[str, Any]) -> list[Row]:
    stream, single, arrays = (found[name] for name in ("stream", "http_one_by_one", "http_arrays_of_100"))
    cpu = ", ".join(f"{name} {us:.0f}" for name, us in found["cpu_us_per_event"].items() if us >= 1)
    most = ", ".join(f"{name} {n:.2f}" for name, n in list(found["redis_commands"].items())[:6])
    return [
        Row(
            "notifications delivered, events through the stream",
            f"{stream['median']:,.0f}/s",
            note=f"median of {len(stream['runs'])} runs of {found['events_per_run']:,}; "
            f"best {stream['best']:,.0f}/s, spread {stream['spread_percent']:.0f} %",
        ),
        Row("… CPU of each process", f"{sum(found['cpu_us_per_event'].values()):.0f} µs/event", note=cpu),
        Row("… Redis commands", f"{found['redis_commands_per_event']:.1f} per event", note=most),
        *(
            Row(
                f"… events over HTTP, 32 connections, {how}",
                f"{of['delivered_per_second']:,.0f}/s",
                note=f"accepted {of['accepted_per_second']:,.0f}/s",
            )
            for how, of in (("one by one", single), ("arrays of 100", arrays))
        ),
    ]
