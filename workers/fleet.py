"""The processes that `tocsin up` watches: their lines on the screen, and their restarts.

Everything a process writes is in its log. The screen shows what somebody should see: warnings, errors, and lines
that are no log records at all, such as a traceback.
"""

import signal
import sys
import time
from dataclasses import dataclass
from itertools import cycle

import msgspec
from rich.console import Console
from rich.text import Text

from workers.process import Process

FIRST_DELAY, LONGEST_DELAY = 0.2, 10.0
"""Seconds before a dead process is started again: doubled each time."""
STEADY = 30.0
"""Seconds after which a running process counts as healthy: its next delay is the first again."""
_COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_green", "bright_magenta")
_ROUTINE = ("[INFO]", "[DEBUG]", "INFO:", "DEBUG:")
_LONGEST_LINE = 500
_SHOWN_APART = {"event", "level", "ts", "process", "exception"}


@dataclass
class _Watched:
    process: Process
    started: float
    delay: float = FIRST_DELAY
    again_at: float | None = None


class Fleet:
    """Use it from the main thread only: that is the one which starts processes."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self._watched: list[_Watched] = []
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)

    def start(self, process: Process) -> None:
        """Starts a process with an empty log, shows its lines and restarts it when it ends."""
        process.log.unlink(missing_ok=True)
        self.processes.append(process)
        process.launch()
        self.watch(process)

    def watch(self, process: Process) -> None:
        """Restarts a running process when it ends."""
        self._watched.append(_Watched(process, time.monotonic()))

    def say(self, text: str | Text) -> None:
        self._console.print(text, markup=False)

    def show_lines(self) -> None:
        """What the processes wrote since the last call, as far as somebody should see it."""
        width = max((len(process.name) for process in self.processes), default=0)
        for process, colour in zip(self.processes, cycle(_COLOURS), strict=False):
            for line in process.fresh_lines():
                if shown := notable(line):
                    cut = shown if len(shown) <= _LONGEST_LINE else f"{shown[:_LONGEST_LINE]} …"
                    self.say(Text.assemble((f"{process.name:<{width}} | ", colour), cut))

    def restart_dead(self) -> None:
        """Says one line for each death. The start follows after a delay that grows while deaths go on."""
        now = time.monotonic()
        for watched in self._watched:
            if watched.process.ended() is None:
                continue
            if watched.again_at is None:
                if now - watched.started > STEADY:
                    watched.delay = FIRST_DELAY
                watched.again_at = now + watched.delay
                watched.delay = min(2 * watched.delay, LONGEST_DELAY)
                self.say(Text(f"{death_of(watched.process)}: starting it again", "bold red"))
            elif now >= watched.again_at:
                watched.again_at = None
                watched.started = now
                watched.process.launch()


def death_of(process: Process) -> str:
    """How it ended, e.g. `pipeline was killed by SIGKILL`."""
    code = process.ended() or 0
    if code < 0:
        return f"{process.name} was killed by {signal.Signals(-code).name}"
    return f"{process.name} ended with exit code {code}"


def notable(line: str) -> str | None:
    """The line as the screen shows it, or None when it is routine."""
    try:
        record = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None if not line.strip() or any(mark in line for mark in _ROUTINE) else line
    if not isinstance(record, dict) or record.get("level") in ("info", "debug"):
        return None
    words = [str(record.get("level", "")).upper(), str(record.get("event", ""))]
    words += [f"{key}={value}" for key, value in record.items() if key not in _SHOWN_APART]
    if trace := str(record.get("exception", "")).splitlines():
        words.append(f"({trace[-1]})")
    return " ".join(words)
