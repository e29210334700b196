"""What a fleet costs that has nothing to do; and the CPU time of each process, for whoever asks."""

import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.report import Row

_TICK = os.sysconf("SC_CLK_TCK")


def families(bench: Bench) -> dict[str, list[int]]:
    """Each process of the fleet and both servers, with all their children, by their ids."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*"):
        if fields := _stat(int(entry.name)):
            children[int(fields[1])].append(int(entry.name))

    def family(pid: int) -> list[int]:
        return [pid, *(one for child in children[pid] for one in family(child))]

    return {process.name: family(process.pid) for process in [*bench.fleet, *bench.servers.processes]}


def cpu_seconds(bench: Bench) -> dict[str, float]:
    """CPU seconds of each so far, with children that ended."""
    return {
        name: sum(sum(map(int, fields[11:15])) for pid in pids if (fields := _stat(pid))) / _TICK
        for name, pids in families(bench).items()
    }


def _stat(pid: int) -> list[str]:
    """What follows the name in /proc/PID/stat; nothing when it ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


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
