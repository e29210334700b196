"""How long one event takes that nothing disturbs: from sending it to the bytes at a browser's event stream."""

import asyncio
from typing import Any

from tests.benchmarks.bench import Bench, make_users, spread
from tests.benchmarks.client import probes
from tests.benchmarks.report import Row, met

GAP = 0.05
"""Seconds from one probe to the next; the doors take turns, so each is asked every 100 ms."""


def measure(bench: Bench) -> dict[str, Any]:
    bench.start_fleet()
    make_users(bench.servers.database_url, "idle", 1)
    return asyncio.run(_probe(bench, 20 if bench.quick else 300))


async def _probe(bench: Bench, samples: int) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    warm, last = 10, 10 + 2 * samples
    async with probes(bench, ["idle-0"]) as probe:
        began = loop.time()
        for n in range(last):
            await asyncio.sleep(began + n * GAP - loop.time())
            await (probe.xadd(n) if n % 2 else probe.post(n))
        await probe.all_heard(10)
        return {
            "post_ms": spread(probe.latencies(range(warm, last, 2))),
            "xadd_ms": spread(probe.latencies(range(warm + 1, last, 2))),
        }


def rows(found: dict[str, Any], _: dict[str, Any]) -> list[Row]:
    return [
        Row(
            f"idle latency, {door} → bytes at an SSE client",
            f"p50 {of['p50']:.1f} ms, p99 {of['p99']:.1f} ms",
            "p50 ≤ 15 ms, p99 ≤ 40 ms",
            met(of["p50"] <= 15 and of["p99"] <= 40),
            f"p95 {of['p95']:.1f} ms; {of['samples']} samples",
        )
        for door, of in (("POST", found["post_ms"]), ("XADD", found["xadd_ms"]))
    ]
