"""`make bench`: measures this fleet, and its peers, on this machine, in five minutes at most.

python -m tests.benchmarks [--only idle,load] [--quick] [--json PATH] [--svg PATH] [--scratch PATH]
"""

import argparse
import json
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import redis
from rich.console import Console

from schema.errors import TocsinError
from tests.benchmarks import (
    backlog,
    broadcast,
    channels,
    connections,
    cpu,
    idle,
    load,
    machine,
    outage,
    pages,
    peers,
    plot,
    report,
    stages,
    throughput,
)
from tests.benchmarks.bench import Bench, Failed, prepared
from workers.settings import home

LIMIT = 285
"""Seconds for everything but the stopping; what is not measured by then is left out."""
LONG = 1500
"""The same where something is measured that takes long."""
PARTS: dict[str, ModuleType] = {
    "cpu": cpu,
    "idle": idle,
    "throughput": throughput,
    "peers": peers,
    "load": load,
    "connections": connections,
    "pages": pages,
    "stages": stages,
    "backlog": backlog,
    "channels": channels,
    "outage": outage,
    "broadcast": broadcast,
}
ALONE = ("pages", "stages")
"""These want the fleet gone, and so come after those that share it."""
ON_REQUEST = ("backlog", "channels", "outage", "broadcast")
"""These take longer than all others together."""


_USUAL = [name for name in PARTS if name not in ON_REQUEST]


class OutOfTime(BaseException):
    """Not an Exception, so that nothing on the way takes it for a fault of its own."""


def main() -> int:
    given = arguments()
    console, began = Console(width=None if sys.stdout.isatty() else 120), time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGALRM, _out_of_time)
    limit = LONG if set(given.only) & set(ON_REQUEST) else LIMIT
    signal.alarm(limit)
    failed: dict[str, str] = {}
    try:
        with prepared(given.quick, given.scratch) as bench:
            found = machine.describe(bench)
            try:
                for name in sorted(given.only, key=ALONE.__contains__):
                    measure(bench, name, failed, console)
            except OutOfTime:
                failed["time"] = f"{limit} s were not enough; what is missing was not measured"
            signal.alarm(0)
    except (TocsinError, Failed) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        return 1
    except OutOfTime:
        console.print(f"bench: the servers were not up after {limit} s", style="red")
        return 1
    except KeyboardInterrupt:
        return 130
    sections = [PARTS[name].rows(bench.results[name], bench.results) for name in PARTS if name in bench.results]
    report.show(console, sections, machine.line(found), failed)
    everything: dict[str, Any] = {
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "quick": given.quick,
        "took_seconds": round(time.monotonic() - began, 1),
        "machine": found,
        **bench.results,
        "failed": failed,
    }
    write(given.json, json.dumps(everything, indent=2, ensure_ascii=False) + "\n")
    if "load" in bench.results:
        write(given.svg, plot.svg(bench.results, f"{found['cpu']}, {found['cores']} cores"))
    console.print(f"{everything['took_seconds']:.0f} s; all numbers in {_shown(given.json)}", highlight=False)
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measures the fleet and its peers.")
    parser.add_argument("--only", type=_parts, default=_USUAL, help=f"some of {','.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument("--json", type=Path, default=home() / "bench.json", help="where the numbers go")
    parser.add_argument("--svg", type=Path, default=home() / "bench.svg", help="where the plot of `load` goes")
    parser.add_argument("--scratch", type=Path, help="a folder that keeps BullMQ for the next time")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    wanted = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := wanted - PARTS.keys():
        raise argparse.ArgumentTypeError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return [name for name in PARTS if name in wanted]


def measure(bench: Bench, name: str, failed: dict[str, str], console: Console) -> None:
    """One part. A part that fails is told of in the end, and the others go on."""
    began = time.monotonic()
    with console.status(f"{name} …"):
        try:
            bench.results[name] = PARTS[name].measure(bench)
        except (Failed, TocsinError, OSError, psycopg.Error, redis.RedisError) as error:
            failed[name] = f"{type(error).__name__}: {error}"
    console.print(f"{name}: {time.monotonic() - began:.0f} s", style="dim", highlight=False)


def _out_of_time(_number: int, _frame: object) -> None:
    raise OutOfTime


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


if __name__ == "__main__":
    sys.exit(main())
