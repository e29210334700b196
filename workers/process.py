"""A child process that ends with us and writes its output to a file.

It does so also when we are killed: util-linux' `setpriv --pdeathsig` has the kernel send it a signal.
The kernel does that when the *thread* that started it ends, so launch from the main thread. Where setpriv is
missing (macOS) a child is started plainly, and outlives a supervisor that is killed with -9.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from schema.errors import TocsinError

_AT_ONCE = 1 << 18
"""Bytes of a log that are looked at in one go."""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READ_ANYTHING = {"dac_read_search": 2, "dac_override": 1}
"""Linux capabilities, the lesser one first, with their bits: capabilities(7)."""


def tied(death: signal.Signals, user: int | None = None) -> list[str]:
    """The words before a command that have the kernel send it `death` when we die; none without setpriv.

    With a `user` id, root runs it as that user, who keeps the right to read anything: this checkout may lie below
    a directory that only root may enter. Raises TocsinError when there is no setpriv to do that.
    """
    tool = _setpriv()
    if not tool and user is None:
        return []
    if not tool:
        raise TocsinError(
            "setpriv (util-linux) is missing, which gives up root's rights: start as an ordinary user"
        )
    words = [tool, "--pdeathsig", death.name.removeprefix("SIG")]
    if user is not None:
        words += [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        permitted = int(Path("/proc/self/status").read_text().partition("CapPrm:")[2].split()[0], 16)
        for capability, bit in _READ_ANYTHING.items():
            if permitted >> bit & 1:  # a container may have taken it away
                words += [f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"]
                break
    return [*words, "--"]


@cache
def _setpriv() -> str | None:
    """Where util-linux' setpriv is; busybox has one too, which does not know --pdeathsig."""
    path = shutil.which("setpriv")
    known = path and subprocess.run([path, "--pdeathsig", "TERM", "true"], capture_output=True, check=False)
    return path if known and known.returncode == 0 else None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals that end us come after this: a child that started in the moment of one would be nobody's."""
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for signalled in came:
            signal.raise_signal(signalled)


@dataclass
class Process:
    """`command` starts with the words of `tied`; `inherited` are file descriptors that it keeps open."""

    name: str
    command: list[str]
    log: Path
    environment: Mapping[str, str]
    directory: Path = Path("/")
    stop_signal: signal.Signals = signal.SIGTERM
    inherited: tuple[int, ...] = ()
    _popen: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _shown: int = field(default=0, init=False)

    def launch(self) -> None:
        """Starts it, or starts it again after its death. It gets a process group of its own, so that Ctrl-C
        at a terminal reaches only us, who know in which order things stop."""
        with self.log.open("ab") as log, _uninterrupted():
            self._popen = subprocess.Popen(
                self.command,
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self.inherited,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid if self._popen else 0

    def ended(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self._popen.poll() if self._popen else 0

    def ask_to_stop(self) -> None:
        if self._popen:
            self._popen.send_signal(self.stop_signal)

    def kill(self) -> None:
        """Ends its whole group at once: a command may have children that would live on."""
        if self._popen and self._popen.poll() is None:
            os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()

    def wait(self, deadline: float) -> bool:
        """Whether it ended by itself before `deadline` (time.monotonic)."""
        try:
            if self._popen:
                self._popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def fresh_lines(self) -> list[str]:
        """The whole lines written since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._shown)
            written = log.read(_AT_ONCE)
        whole = written[: written.rfind(b"\n") + 1] or (written if len(written) == _AT_ONCE else b"")
        self._shown += len(whole)
        return whole.decode(errors="replace").splitlines()

    def last_lines(self, count: int) -> list[str]:
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _AT_ONCE))
            return log.read().decode(errors="replace").splitlines()[-count:]


def stop(processes: list[Process], seconds: float) -> list[Process]:
    """Asks all of them at once. Answers those that still ran after `seconds` and were ended by force."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.ask_to_stop()
    late = [process for process in processes if not process.wait(deadline)]
    for process in late:
        process.kill()
    return late
