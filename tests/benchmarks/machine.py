"""What the numbers were measured on."""

import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg

from tests.benchmarks.bench import Bench, Failed


def describe(bench: Bench) -> dict[str, Any]:
    """Raises Failed when PostgreSQL does not sync its commits to the disk: then no number would mean anything."""
    with psycopg.connect(bench.servers.database_url, autocommit=True) as connection:
        shown = {
            name: connection.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[index]
            for name in ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        }
        if shown["fsync"] != "on" or shown["synchronous_commit"] != "on":
            raise Failed(f"PostgreSQL is not durable: {shown}")
        commit = _commit_ms(connection)
    with bench.redis() as client:
        server: Any = client.info("server")
        append_only: Any = client.config_get("append*")
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "load_average_at_start": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "postgres": shown.pop("server_version"),
        "postgres_settings": shown,
        "one_commit_ms": round(commit, 3),
        "valkey": server.get("valkey_version") or server["redis_version"],
        "valkey_settings": append_only,
        "dramatiq": version("dramatiq"),
    }


def line(machine: dict[str, Any]) -> str:
    loads = ", ".join(f"{load:.2f}" for load in machine["load_average_at_start"])
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; "
        f"load average at the start {loads}\n"
        f"Python {machine['python']}, PostgreSQL {machine['postgres']} (fsync and synchronous_commit on; "
        f"one commit {machine['one_commit_ms']:.2f} ms), Valkey {machine['valkey']} (append-only file on)"
    )


def _cpu() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit_ms(connection: psycopg.Connection[Any]) -> float:
    """The median of 100 commits of one row each."""
    connection.execute("CREATE TABLE commits (n int)")
    took = []
    for n in range(100):
        began = time.perf_counter()
        connection.execute("INSERT INTO commits VALUES (%s)", (n,))
        took.append(time.perf_counter() - began)
    connection.execute("DROP TABLE commits")
    return statistics.median(took) * 1000
