"""An event for everybody: how long it takes, what it writes, what it holds in memory, and whether single events
notice. Probes go through the stream all the while; first without a broadcast, then with one, then with one whose
worker is killed half way.

Not part of the usual run, for it takes minutes: `make bench ARGS="--only broadcast"`.
"""

import asyncio
import json
import os
import time
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psycopg

from tests.benchmarks.bench import PROBE, Bench, Failed, make_users, spread
from tests.benchmarks.client import Probes, post_all, probes
from tests.benchmarks.report import Row, met
from workers.alive import living

USERS, QUICK = 100_000, 2_000
PROBES = 25
"""A second, for ten users."""
MARGIN = 50.0
"""Milliseconds that the probes' p99 may be above twice that of an idle fleet."""
LONGEST = 600.0
"""Seconds for one broadcast."""
_LEFT = """
SELECT routed_count, recipient_count, expanded_at IS NOT NULL AND expanded_to IS NULL FROM events WHERE id = %s
"""
_OPEN = """
SELECT count(*) FROM deliveries
WHERE starts_with(user_id, 'crowd-') AND state IN ('pending', 'sending', 'retrying')
"""
_WRITTEN = """
SELECT count(*), count(DISTINCT user_id),
    (SELECT count(*) FROM deliveries WHERE starts_with(user_id, 'crowd-')),
    (SELECT count(*) FROM inboxes WHERE starts_with(user_id, 'crowd-') AND unread = %(broadcasts)s)
FROM notifications WHERE event_id = %(event)s AND starts_with(user_id, 'crowd-')
"""


def measure(bench: Bench) -> dict[str, Any]:
    users = QUICK if bench.quick else USERS
    bench.start_fleet()
    make_users(bench.servers.database_url, "probe", 10)
    make_users(bench.servers.database_url, "crowd", users)
    with psycopg.connect(bench.servers.database_url, autocommit=True) as database:
        database.execute("ANALYZE users, inboxes")
        return asyncio.run(_measure(bench, database, users))


async def _measure(bench: Bench, database: psycopg.Connection[Any], users: int) -> dict[str, Any]:
    async with probes(bench, [f"probe-{n}" for n in range(10)]) as probe:
        await _probe_for(probe, 2.0)
        idle = await _probe_for(probe, 2.0 if bench.quick else 30.0)
        whole = await _broadcast(bench, database, probe, "broadcast-1", users)
        killed = await _broadcast(bench, database, probe, "broadcast-2", users, killed=True)
    return {"users": users, "idle_ms": spread(idle), "whole": whole, "killed": killed}


async def _broadcast(
    bench: Bench, database: psycopg.Connection[Any], probe: Probes, id_: str, users: int, *, killed: bool = False
) -> dict[str, Any]:
    """Seconds until all is written, and until all is sent. `killed`: when half of it is written, the worker of the
    bulk lane and the clock die, and are started again."""
    event = {"id": id_, "type": PROBE, "recipients": {"all": True}, "data": {"n": -1}}
    latencies: list[float] = []
    most: dict[str, float] = {}
    queued, written, sent = 0, None, None
    began = time.monotonic()
    await post_all(bench.api_port, [json.dumps(event).encode()], 1)
    while sent is None:
        if time.monotonic() > began + LONGEST:
            raise Failed(f"{id_} was not done after {LONGEST:.0f} s")
        latencies += await _probe_for(probe, 0.4)
        for name, mib in _memory(bench).items():
            most[name] = max(most.get(name, 0), mib)
        with bench.redis() as client:
            queued = max(queued, int(str(client.llen("tocsin:pipeline-bulk"))))
        ((routed, _, done),) = database.execute(_LEFT, (id_,)).fetchall()
        if killed and routed > users / 2:
            _kill(bench, "pipeline-bulk", "clock")
            killed = False
        if done and written is None:
            written = time.monotonic() - began
        if written is not None and database.execute(_OPEN).fetchone() == (0,):
            sent = time.monotonic() - began
    told = {"event": id_, "broadcasts": int(id_[-1])}
    ((rows, people, deliveries, inboxes),) = database.execute(_WRITTEN, told).fetchall()
    return {
        "written_seconds": round(written or 0, 2),
        "sent_seconds": round(sent, 2),
        "notifications": rows,
        "people": people,
        "deliveries": deliveries,
        "inboxes_that_count_it": inboxes,
        "most_queued": queued,
        "most_mib": {name: round(mib, 1) for name, mib in sorted(most.items())},
        "probes_ms": spread(latencies),
    }


async def _probe_for(probe: Probes, seconds: float) -> list[float]:
    loop = asyncio.get_running_loop()
    began, first = loop.time(), len(probe.sent)
    numbers = range(first, first + int(seconds * PROBES))
    for n in numbers:
        await asyncio.sleep(began + (n - first) / PROBES - loop.time())
        await probe.xadd(n)
    await probe.all_heard(60)
    return probe.latencies(numbers)


def _pids(bench: Bench, *names: str) -> dict[str, list[int]]:
    with bench.redis() as client:
        alive = living(client)
    return {name: [one.pid for one in alive if one.process == name] for name in names}


def _memory(bench: Bench) -> dict[str, float]:
    """MiB that the workers have resident now."""
    found = {}
    for name, pids in _pids(bench, "pipeline-bulk", "pipeline", "deliver-web", "clock").items():
        pages = 0
        for pid in pids:
            try:
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                continue
        found[name] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return found


def _kill(bench: Bench, *names: str) -> None:
    """With everything that belongs to them, and starts them again."""
    for process in bench.fleet:
        if process.name in names:
            for pid in _pids(bench, process.name)[process.name]:
                os.kill(pid, SIGKILL)
            os.killpg(process.pid, SIGKILL)
            process.wait(time.monotonic() + 10)
            process.launch()


def rows(found: dict[str, Any], _: dict[str, Any]) -> list[Row]:
    idle, users = found["idle_ms"], found["users"]
    told = []
    for name, of in (("", found["whole"]), (", killed half way", found["killed"])):
        exactly = of["notifications"] == of["people"] == of["inboxes_that_count_it"] == users
        memory = ", ".join(f"{process} {mib:.0f}" for process, mib in of["most_mib"].items())
        told.append(
            Row(
                f"broadcast to {users:,}{name}",
                f"written {of['written_seconds']:.1f} s, sent {of['sent_seconds']:.1f} s",
                f"exactly {users:,}",
                f"{met(exactly)} {of['notifications']:,}",
                f"{of['most_queued']} messages queued at most; MiB: {memory}",
            )
        )
        probe = of["probes_ms"]
        within = met(probe["p99"] <= 2 * idle["p99"] + MARGIN)
        told.append(
            Row(
                f"single events meanwhile{name}",
                f"p50 {probe['p50']:.1f} ms, p99 {probe['p99']:.1f} ms",
                "" if name else "p99 ≤ 2 × idle + 50 ms",
                "" if name else within,  # with processes that start beside it, no more than a number
                f"idle: p50 {idle['p50']:.1f} ms, p99 {idle['p99']:.1f} ms",
            )
        )
    return told
