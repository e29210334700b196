"""One fleet for all tests of a module, each with people and events of its own; and how hard it is treated."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.load import TYPE, Load
from tests.chaos.system import System

TEMPLATES = Path(__file__).parents[2] / "templates"
TICK = {
    "type.toml": 'category = "test"\nlabel = "ticks"\n\n[channels]\nweb = true\n',
    "data.schema.json": '{"type": "object", "required": ["event"], "properties": {"event": {"type": "string"}}}',
    "sample.json": '{"event": "1"}',
    "title.txt.j2": "{{ data.event }}\n",
    "message.txt.j2": "tick\n",
    "action_url.txt.j2": "",
}
"""A type without rate limit and grouping: each of its events is a row of its own."""


@dataclass(frozen=True)
class Severity:
    """`rate` in events a second; the other numbers are seconds: the least a test sends events, in all and before
    the fault, how long a worker is stopped, and how long a server is away."""

    rate: int
    lasts: float
    before: float
    stopped: float
    away: float


@pytest.fixture(scope="session")
def severity() -> Severity:
    """For CI; for all that is promised, set CHAOS_RATE=500 CHAOS_SECONDS=30."""
    rate = int(os.environ.get("CHAOS_RATE", "100"))
    if seconds := float(os.environ.get("CHAOS_SECONDS", "0")):
        return Severity(rate, seconds, seconds / 3, 2 * seconds, seconds * 2 / 3)
    return Severity(rate, 5, 2, 13, 5)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc to see whose process is whose")
    home = tmp_path_factory.mktemp("chaos")
    templates = home / "templates"
    shutil.copytree(TEMPLATES / "_group", templates / "_group")
    (templates / TYPE).mkdir()
    for name, text in TICK.items():
        (templates / TYPE / name).write_text(text)
    made = System(home, templates)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def system(running: System) -> System:
    """A fleet that is well, whatever the test before did to it."""
    running.wait_until(running.is_ready, 60)
    running.wait_until(lambda: not running.left_in_redis(), 60)
    return running


@pytest.fixture
def load(system: System, severity: Severity) -> Callable[..., Load]:
    """load(stream=False): one that has not begun."""

    def made(*, stream: bool) -> Load:
        return Load(system.addresses, severity.rate, users=200, stream=stream)

    return made
