"""What an open event stream costs the gateway, and how long one event takes to reach thousands of them."""

import asyncio
import json
import resource
import select
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import msgspec

from schema.wire import InboxItem, Publication, user_channel
from tests.benchmarks.bench import PROBE, Bench, Failed, make_users
from tests.benchmarks.client import Http
from tests.benchmarks.report import Row, met

CONNECTIONS = 5_000
RECIPIENTS = 1_000
"""An event has no more; five of them, in one call, reach everybody."""

PATIENCE = 60
"""Seconds."""


def measure(bench: Bench) -> dict[str, Any]:
    bench.start_fleet()
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 200 if bench.quick else CONNECTIONS
    if count + 200 > files:
        raise Failed(f"{count:,} connections need more than the {files:,} open files that `ulimit -Hn` allows")
    make_users(bench.servers.database_url, "many", count)
    (gateway,) = (process for process in bench.fleet if process.name == "gateway")
    before = memory_kib(gateway.pid)
    with bench.child("listeners", bench.gateway_port, "many", count) as listeners:
        if listeners.stdout is None:
            raise Failed("the listeners have no output")
        opened = float(_line(listeners.stdout, "open").removeprefix("open "))
        after = memory_kib(gateway.pid)
        rounds = [_tell_all(bench, listeners.stdout, number, count) for number in range(2 if bench.quick else 4)]
        peak = memory_kib(gateway.pid)
        published = _publish_to_all(bench, listeners.stdout, len(rounds) + 1, count)
    told = [took for took, _ in rounds[1:]]
    return {
        "connections": count,
        "opened_per_second": round(count / opened, 1),
        "memory": "PSS" if Path("/proc/self/smaps_rollup").exists() else "RSS",
        "kib_before": before,
        "kib_after": after,
        "kib_each": round((after - before) / count, 1),
        "kib_after_telling_all": peak,
        "to_all_seconds": {
            "runs": told,
            "best": min(told),
            "median": round(statistics.median(told), 3),
            "first": rounds[0][0],
        },
        "publications_to_all_seconds": published,
        "accepted_seconds": statistics.median(accepted for _, accepted in rounds[1:]),
    }


def _tell_all(bench: Bench, told: IO[str], number: int, count: int) -> tuple[float, float]:
    """Seconds from the call to the last browser's bytes, and to the call's answer."""
    events = [
        {
            "id": f"many-{number}-{at}",
            "type": PROBE,
            "recipients": [f"many-{n}" for n in range(at, min(at + RECIPIENTS, count))],
            "data": {"n": number},
        }
        for at in range(0, count, RECIPIENTS)
    ]
    began = time.monotonic()
    asyncio.run(_post(bench.api_port, json.dumps(events).encode()))
    accepted = time.monotonic()
    return round(float(_line(told, "all told")) - began, 3), round(accepted - began, 3)


def _publish_to_all(bench: Bench, told: IO[str], place: int, count: int) -> float:
    """The gateway's share: seconds from the first of as many publications as deliver-web would make, which tell of
    rows that do not exist, to the last browser's bytes. Nothing may be asked of those inboxes afterwards."""
    now = datetime.now(UTC)
    item = InboxItem(
        uuid4(), place, PROBE, "bench", "normal", "Probe", "A probe.", {"n": 0}, None, now, read=False
    )
    said = msgspec.json.encode(Publication("notification", place, place, item))
    with bench.redis() as client:
        pipes = [client.pipeline(transaction=False) for _ in range(0, count, 500)]
        for n in range(count):
            pipes[n // 500].publish(user_channel(f"many-{n}"), said)
        began = time.monotonic()
        for pipe in pipes:
            pipe.execute()
    return round(float(_line(told, "all told")) - began, 3)


async def _post(port: int, body: bytes) -> None:
    http = await Http.open(port)
    await http.post_events(body)
    await http.close()


def _line(file: IO[str], expected: str) -> str:
    """The listeners' next line; they never say two at once."""
    if not select.select([file], [], [], PATIENCE)[0]:
        raise Failed(f"the listeners were not {expected} after {PATIENCE} s")
    line = file.readline()
    if not line:
        raise Failed("the listeners failed; their traceback is above")
    return line


def memory_kib(pid: int) -> int:
    """The process's share of the memory it uses (PSS), or all of it (RSS) where the kernel does not say."""
    try:
        told, name = Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss:"
    except OSError:
        told, name = Path(f"/proc/{pid}/status").read_text(), "VmRSS:"
    (line,) = (line for line in told.splitlines() if line.startswith(name))
    return int(line.split()[1])


def rows(found: dict[str, Any], _: dict[str, Any]) -> list[Row]:
    count, to_all = found["connections"], found["to_all_seconds"]
    return [
        Row(
            f"gateway, {count:,} idle SSE connections in one process",
            f"{found['kib_each']:.1f} KiB each",
            "≤ 35 KiB",
            met(found["kib_each"] <= 35),
            f"{found['memory']} {found['kib_before'] / 1024:.0f} → {found['kib_after'] / 1024:.0f} MiB; "
            f"{found['opened_per_second']:,.0f} opened a second",
        ),
        Row(
            f"one event to all {count:,}, POST → the last one's bytes",
            f"{to_all['median']:.2f} s",
            "≤ 0.5 s",
            met(to_all["median"] <= 0.5),
            f"best {to_all['best']:.2f} s, first {to_all['first']:.2f} s; "
            f"202 after {found['accepted_seconds']:.2f} s",
        ),
        Row(
            "… the gateway's share of it, publications → bytes",
            f"{found['publications_to_all_seconds']:.2f} s",
            "≤ 0.5 s",
            met(found["publications_to_all_seconds"] <= 0.5),
        ),
    ]
