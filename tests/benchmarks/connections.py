"""What an open event stream costs the gateway, and how long one event takes to reach thousands of them."""

import asyncio
import json
import resource
import select
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
"""An event has no more. One reaches all connections when each of as many people has five browsers open; where each
connection is another user's, it takes five events, in one call."""

PATIENCE = 60
"""Seconds."""


def measure(bench: Bench) -> dict[str, Any]:
    bench.start_fleet()
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 200 if bench.quick else CONNECTIONS
    if count + 200 > files:
        raise Failed(f"{count:,} connections need more than the {files:,} open files that `ulimit -Hn` allows")
    for prefix in ("many", "few"):
        make_users(bench.servers.database_url, prefix, count)
    (gateway,) = (process for process in bench.fleet if process.name == "gateway")
    before = memory_kib(gateway.pid)
    turns = range(2 if bench.quick else 4)
    with _listening(bench, "many", count, count) as (told, opened):
        after = memory_kib(gateway.pid)
        rounds = [_tell_all(bench, told, "many", number, count) for number in turns]
        peak = memory_kib(gateway.pid)
        published = _publish_to_all(bench, told, len(rounds) + 1, count)
    people = max(1, count * RECIPIENTS // CONNECTIONS)
    with _listening(bench, "few", count, people) as (told, _):
        one_event = [_tell_all(bench, told, "few", number, people) for number in turns]
    return {
        "connections": count,
        "opened_per_second": round(count / opened, 1),
        "memory": "PSS" if Path("/proc/self/smaps_rollup").exists() else "RSS",
        "kib_before": before,
        "kib_after": after,
        "kib_each": round((after - before) / count, 1),
        "kib_after_telling_all": peak,
        "people": people,
        "one_event_to_all_seconds": _seconds(one_event),
        "five_events_to_all_seconds": _seconds(rounds),
        "publications_to_all_seconds": published,
        "accepted_seconds": statistics.median(accepted for _, accepted in one_event[1:]),
    }


@contextmanager
def _listening(bench: Bench, prefix: str, count: int, people: int) -> Iterator[tuple[IO[str], float]]:
    """`count` browsers of that many people: what they say, and in how many seconds all were open."""
    with bench.child("listeners", bench.gateway_port, prefix, count, people) as listeners:
        if listeners.stdout is None:
            raise Failed("the listeners have no output")
        yield listeners.stdout, float(_line(listeners.stdout, "open").removeprefix("open "))


def _seconds(rounds: list[tuple[float, float]]) -> dict[str, Any]:
    first, *others = [took for took, _ in rounds]
    return {"runs": others, "best": min(others), "median": round(statistics.median(others), 3), "first": first}


def _tell_all(bench: Bench, told: IO[str], prefix: str, number: int, people: int) -> tuple[float, float]:
    """Seconds from the call to the last browser's bytes, and to the call's answer."""
    events = [
        {
            "id": f"{prefix}-{number}-{at}",
            "type": PROBE,
            "recipients": [f"{prefix}-{n}" for n in range(at, min(at + RECIPIENTS, people))],
            "data": {"n": number},
        }
        for at in range(0, people, RECIPIENTS)
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
    count, one, five = found["connections"], found["one_event_to_all_seconds"], found["five_events_to_all_seconds"]
    return [
        Row(
            f"gateway, {count:,} idle SSE connections in one process",
            f"{found['kib_each']:.1f} KiB each",
            "≤ 35 KiB",
            met(found["kib_each"] <= 35),
            f"each another user's; {found['memory']} {found['kib_before'] / 1024:.0f} →"
            f" {found['kib_after'] / 1024:.0f} MiB; {found['opened_per_second']:,.0f} opened a second",
        ),
        Row(
            f"one event to all {count:,}, POST → the last one's bytes",
            f"{one['median']:.2f} s",
            "≤ 0.5 s",
            met(one["median"] <= 0.5),
            f"{found['people']:,} recipients with five browsers each; best {one['best']:.2f} s, first"
            f" {one['first']:.2f} s; 202 after {found['accepted_seconds']:.2f} s",
        ),
        Row(
            f"… as many events as {count:,} users take, in one call",
            f"{five['median']:.2f} s",
            note=f"best {five['best']:.2f} s, first {five['first']:.2f} s",
        ),
        Row(
            "… the gateway's share of that, publications → bytes",
            f"{found['publications_to_all_seconds']:.2f} s",
            "≤ 0.5 s",
            met(found["publications_to_all_seconds"] <= 0.5),
        ),
    ]
