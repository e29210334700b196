"""What a fleet costs that has nothing to do; and the CPU time of each process, for whoever asks."""

import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.report import Row

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(bench: Bench) -> dict[str, float]:
    """CPU seconds of each process of the fleet and of both servers, so far, with all their children, also those
    that ended."""
    children: dict[int, list[int]] = defaultdict(list)
    used: dict[int, float] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        children[int(fields[1])].append(int(entry.name))
        used[int(entry.name)] = sum(map(int, fields[11:15])) / _TICK

    def with_children(pid: int) -> float:
        return used.get(pid, 0.0) + sum(map(with_children, children[pid]))

    return {process.name: with_children(process.pid) for process in [*bench.fleet, *bench.servers.processes]}


def spent(bench: Bench, before: dict[str, float]) -> dict[str, float]:
    """CPU seconds of each process since `before`."""
    return {name: seconds - before.get(name, 0.0) for name, seconds in cpu_seconds(bench).items()}


def measure(bench: Bench) -> dict[str, Any]:
    """The fleet left alone for ten seconds."""
    bench.start_fleet()
    seconds = 3 if bench.quick else 10
    time.sleep(2)  # what was started or measured before comes to rest
    before, began = cpu_seconds(bench), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    each = {name: round(used / took * 1000, 2) for name, used in spent(bench, before).items()}
    return {
        "ms_per_second": each,
        "percent_of_a_core": round(sum(each.values()) / 10, 2),
        "seconds": round(took, 1),
    }


def rows(found: dict[str, Any], _: dict[str, Any]) -> list[Row]:
    each = ", ".join(f"{name} {ms:.1f}" for name, ms in found["ms_per_second"].items())
    return [
        Row("the idle fleet, both servers with it", f"{found['percent_of_a_core']:.1f} % of a core", note=each)
    ]
