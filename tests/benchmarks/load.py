"""How latency grows with load: probes through the stream while other events flow at shares of the measured
throughput."""

import asyncio
from typing import Any

import psycopg

from tests.benchmarks.bench import Bench, make_users, sent, spread, wait_sent
from tests.benchmarks.client import Probes, probes
from tests.benchmarks.producer import Producer, producing
from tests.benchmarks.report import Row
from tests.benchmarks.throughput import stream

SHARES = (10, 25, 50, 75)
"""Per cent of the measured throughput."""
PROBES = 25
"""Probes a second, for ten users."""
SETTLING = 1.0
"""Seconds at the start of a load that do not count."""


def measure(bench: Bench) -> dict[str, Any]:
    bench.start_fleet()
    seconds = 3.0 if bench.quick else 8.0
    make_users(bench.servers.database_url, "probe", 10)
    with psycopg.connect(bench.servers.database_url, autocommit=True) as database:
        if "throughput" in bench.results:
            full = bench.results["throughput"]["stream"]["median"]
        else:
            stream(bench, database, "load-warm", 500)
            full = stream(bench, database, "load", 1_000 if bench.quick else 10_000)
        loads = [_at(bench, database, share, full * share / 100, seconds) for share in SHARES]
    return {"full_events_per_second": full, "seconds": seconds, "loads": loads}


def _at(
    bench: Bench, database: psycopg.Connection[Any], share: int, rate: float, seconds: float
) -> dict[str, Any]:
    """One load. `behind`: seconds after the last event until the last delivery was settled."""
    prefix, count = f"load{share}", int(rate * seconds)
    users = count // 2 + 1
    make_users(bench.servers.database_url, prefix, users)
    before = sent(database)
    with producing(bench, prefix, users, count, rate) as producer:
        latencies = asyncio.run(_probe(bench, producer, share, seconds))
        ended = wait_sent(database, before + count)
        began, last = producer.times()
    return {
        "share_percent": share,
        "events_per_second": round(count / (last - began), 1),
        "xadd_ms": spread(latencies),
        "behind_seconds": round(max(0.0, ended - last), 3),
    }


async def _probe(bench: Bench, producer: Producer, share: int, seconds: float) -> list[float]:
    loop = asyncio.get_running_loop()
    async with probes(bench, [f"probe-{n}" for n in range(10)]) as probe:
        producer.go()
        began = loop.time()
        first = share * 10_000
        numbers = range(first, first + int(seconds * PROBES))
        for n in numbers:
            await asyncio.sleep(began + (n - first) / PROBES - loop.time())
            await probe.xadd(n)
        await probe.all_heard(60)
        return _settled(probe, numbers)


def _settled(probe: Probes, numbers: range) -> list[float]:
    return probe.latencies(numbers[int(SETTLING * PROBES) :])


def rows(found: dict[str, Any], _: dict[str, Any]) -> list[Row]:
    return [
        Row(
            f"latency at {of['share_percent']} % load ({of['events_per_second']:,.0f}/s), XADD → bytes",
            f"p50 {of['xadd_ms']['p50']:.1f} ms, p99 {of['xadd_ms']['p99']:.1f} ms",
            note=f"{of['xadd_ms']['samples']} samples; {of['behind_seconds']:.2f} s behind at the end",
        )
        for of in found["loads"]
    ]
