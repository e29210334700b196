"""What measurements stand on: a PostgreSQL and a Valkey that keep what they are told, the Procfile's fleet, users
that are known already."""

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any

import jwt
import psycopg
import redis

from workers import embedded, procfile
from workers.alive import living
from workers.migrate import migrate
from workers.process import Process, stop, tied
from workers.settings import home

ROOT = procfile.PROCFILE.parent
API_KEY = "bench-key"
JWT_SECRET = "bench-secret-of-at-least-32-bytes!!"
PROBE = "probe"
"""The type of the events whose way is timed: charged like any other, by a limit that is never reached, and never
grouped. It exists in a copy of templates/ that only this fleet reads."""
_PROBE = {
    "type.toml": 'category = "bench"\nimportance = "normal"\nlabel = "probes"\n\n'
    '[channels]\nweb = true\n\n[rate_limit]\nmax = 1000000\nper = "1m"\n',
    "data.schema.json": '{"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}',
    "sample.json": '{"n": 1}',
    "title.txt.j2": "Probe {{ data.n }}",
    "message.txt.j2": "A probe.",
    "action_url.txt.j2": "/probes/{{ data.n }}",
}
_USERS = "INSERT INTO users (id) SELECT %(prefix)s || '-' || n FROM generate_series(0, %(last)s) AS n"
_INBOXES = "INSERT INTO inboxes (user_id) SELECT %(prefix)s || '-' || n FROM generate_series(0, %(last)s) AS n"
_SENT = "SELECT coalesce(sum(count), 0) FROM notification_analytics WHERE event = 'sent' AND type = 'comment'"


class Failed(Exception):
    """A measurement that came to nothing, and why."""


@dataclass
class Bench:
    """`results` are those of the parts that ran before, by name. `scratch` is where the npm peer is installed."""

    home: Path
    servers: embedded.Servers
    quick: bool
    scratch: Path
    results: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    fleet: list[Process] = field(default_factory=list)

    @property
    def api_port(self) -> int:
        return int(self.environment["TOCSIN_API_PORT"])

    @property
    def gateway_port(self) -> int:
        return int(self.environment["TOCSIN_GATEWAY_PORT"])

    def redis(self, number: int = 0) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url(number))

    def redis_url(self, number: int = 0) -> str:
        return f"{self.servers.redis_url.rpartition('/')[0]}/{number}"

    def database(self, name: str) -> str:
        """The address of a new, migrated database beside the fleet's."""
        server = self.servers.database_url.rpartition("/")[0]
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        migrate(f"{server}/{name}")
        return f"{server}/{name}"

    def start_fleet(self) -> None:
        """One of each process of the Procfile, ready when this returns. Nothing happens when it runs already."""
        if self.fleet:
            return
        commands = procfile.read()
        for name, words in commands.items():
            environment = self.environment | {"TOCSIN_PROCESS": name}
            process = Process(name, [*tied(SIGKILL), *words], self.home / f"{name}.log", environment, ROOT)
            process.launch()
            self.fleet.append(process)
        deadline = time.monotonic() + 60
        with self.redis() as client:
            while {one.process for one in living(client)} < set(commands) or not self._answer():
                if dead := [process for process in self.fleet if process.ended() is not None]:
                    raise Failed(f"{dead[0].name} ended: " + "\n".join(dead[0].last_lines(5)))
                if time.monotonic() > deadline:
                    raise Failed("the fleet was not ready after 60 s")
                time.sleep(0.05)

    def _answer(self) -> bool:
        with suppress(OSError):
            for port in (self.api_port, self.gateway_port):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).close()
            return True
        return False

    def stop_fleet(self) -> None:
        """So that it takes nothing from what is measured next."""
        stop(self.fleet, 10)
        self.fleet.clear()

    @contextmanager
    def paused_fleet(self) -> Iterator[None]:
        """The same for a while: its processes stand still, and go on in the end."""
        for process in self.fleet:
            os.killpg(process.pid, SIGSTOP)
        try:
            yield
        finally:
            for process in self.fleet:
                os.killpg(process.pid, SIGCONT)

    @contextmanager
    def child(self, module: str, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """A program of this directory in a process of its own; killed at the end if it still runs."""
        words = [*tied(SIGKILL), sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            words, cwd=ROOT, env=self.environment | environment, stdin=pipe, stdout=pipe, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@contextmanager
def prepared(quick: bool, scratch: Path | None) -> Iterator[Bench]:
    """Fresh servers below TOCSIN_HOME, gone with their data at the end."""
    home().mkdir(parents=True, exist_ok=True)
    where = Path(tempfile.mkdtemp(prefix="bench-", dir=home()))
    where.chmod(0o755)
    try:
        with embedded.start(where, durable=True) as servers:
            migrate(servers.database_url)
            shutil.copytree(ROOT / "templates", where / "templates")
            (where / "templates" / PROBE).mkdir()
            for name, text in _PROBE.items():
                (where / "templates" / PROBE / name).write_text(text)
            bench = Bench(where, servers, quick, scratch or where / "npm")
            bench.environment = environment(servers, where)
            try:
                yield bench
            finally:
                bench.stop_fleet()
    finally:
        shutil.rmtree(where, ignore_errors=True)


def environment(servers: embedded.Servers, where: Path) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TOCSIN_") and name not in ("DATABASE_URL", "REDIS_URL")
    }
    return inherited | {
        "DATABASE_URL": servers.database_url,
        "REDIS_URL": servers.redis_url,
        "TOCSIN_API_KEY": API_KEY,
        "TOCSIN_JWT_SECRET": JWT_SECRET,
        "TOCSIN_GATEWAY_PORT": str(embedded.free_port()),
        "TOCSIN_API_PORT": str(embedded.free_port()),
        "TOCSIN_TEMPLATES": str(where / "templates"),
        "TOCSIN_HOME": str(where),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
    }


def make_users(database_url: str, prefix: str, count: int) -> None:
    """PREFIX-0, PREFIX-1, … with empty inboxes: as anybody is who had a notification before."""
    with psycopg.connect(database_url) as connection:
        for statement in (_USERS, _INBOXES):
            connection.execute(statement, {"prefix": prefix, "last": count - 1})


def sent(connection: psycopg.Connection[Any]) -> int:
    """Comments sent so far; a handful of rows, moved in the transaction that settles the deliveries."""
    row = connection.execute(_SENT).fetchone()
    return int(row[0]) if row else 0


def wait_sent(connection: psycopg.Connection[Any], target: int, seconds: float = 120) -> float:
    """The moment (time.monotonic) when that many comments are sent. Raises Failed after `seconds`."""
    deadline = time.monotonic() + seconds
    while (reached := sent(connection)) < target:
        if time.monotonic() > deadline:
            raise Failed(f"after {seconds:.0f} s, {target - reached:,} events were not delivered")
        time.sleep(0.02)
    return time.monotonic()


def token(user: str) -> str:
    claims = {"sub": user, "aud": "tocsin", "exp": datetime.now(UTC) + timedelta(hours=1)}
    return jwt.encode(claims, JWT_SECRET, algorithm="HS256")


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the most, in milliseconds; by nearest rank."""
    if not seconds:
        raise Failed("nothing was measured")
    ordered = sorted(seconds)
    ranks = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "most": 1.0}
    found = {name: ordered[math.ceil(rank * len(ordered)) - 1] * 1000 for name, rank in ranks.items()}
    return {**{name: round(ms, 3) for name, ms in found.items()}, "samples": len(ordered)}
