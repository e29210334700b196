"""A whole fleet on servers of its own, and everything that can be done to it.

The processes are the Procfile's, watched and started again by the supervisor of `tocsin up`. The servers are
durable and are not watched: the faults say when they come back, on the same port and, where they may, with
their data.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.load import Addresses
from workers import embedded, procfile
from workers.alive import living
from workers.fleet import Fleet
from workers.migrate import migrate
from workers.process import Process, stop, tied

API_KEY = "test-key-of-the-chaos"
JWT_SECRET = "test-secret-of-at-least-32-bytes!!"
READY_SECONDS = 90
GRACE = 30
"""Seconds that a process may take to end when it is asked to."""
_LOOK = 0.02


class System:
    """Use it from the main thread: that is the one which starts processes."""

    def __init__(self, home: Path, templates: Path, **variables: str) -> None:
        self._home = home
        self.servers = embedded.start(home)
        self.fleet = Fleet()
        self.redis = redis.Redis.from_url(self.servers.redis_url, socket_timeout=2, retry=Retry(NoBackoff(), 0))
        api, gateway = embedded.free_port(), embedded.free_port()
        self.addresses = Addresses(
            f"http://127.0.0.1:{api}",
            f"http://127.0.0.1:{gateway}",
            self.servers.redis_url,
            API_KEY,
            JWT_SECRET,
        )
        self._environment = os.environ | {
            "DATABASE_URL": self.servers.database_url,
            "REDIS_URL": self.servers.redis_url,
            "TOCSIN_API_KEY": API_KEY,
            "TOCSIN_JWT_SECRET": JWT_SECRET,
            "TOCSIN_API_PORT": str(api),
            "TOCSIN_GATEWAY_PORT": str(gateway),
            "TOCSIN_TEMPLATES": str(templates),
            "TOCSIN_HOME": str(home / "nowhere"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            **variables,
        }
        self._processes: dict[str, Process] = {}

    def start(self) -> None:
        migrate(self.servers.database_url)
        for name, command in procfile.read().items():
            process = Process(
                name,
                [*tied(signal.SIGKILL), *command],
                self._home / "logs" / f"{name}.log",
                self._environment | {"TOCSIN_PROCESS": name},
                procfile.PROCFILE.parent,
            )
            self._processes[name] = process
            self.fleet.start(process)
        self.wait_until(self.is_ready, READY_SECONDS)

    def stop(self) -> None:
        for process in self._processes.values():
            if process.ended() is None:
                os.killpg(process.pid, signal.SIGCONT)
        stop(list(self._processes.values()), 10)
        self.redis.close()
        self.servers.stop(10)

    def within(self, seconds: float, condition: Callable[[], Any]) -> bool:
        """Keeps the fleet running until the answer is true; whether that came in time."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                return False
            self.fleet.restart_dead()
            time.sleep(_LOOK)
        return True

    def wait_until(self, condition: Callable[[], Any], seconds: float) -> None:
        assert self.within(seconds, condition), f"not within {seconds} s; logs are in {self._home / 'logs'}"

    def for_seconds(self, seconds: float) -> None:
        """Lets time pass that is part of a fault."""
        self.within(seconds, lambda: False)

    def is_ready(self) -> bool:
        """Whether every process reports itself alive, and both that answer say they are ready."""
        try:
            if any(not self.pids(name) for name in self._processes if name not in ("api", "gateway")):
                return False
            urls = (self.addresses.api, self.addresses.gateway)
            return all(httpx.get(f"{url}/readyz", timeout=2).status_code == 200 for url in urls)
        except (redis.RedisError, httpx.TransportError):
            return False

    def process(self, name: str) -> Process:
        return self._processes[name]

    def pids(self, name: str) -> list[int]:
        """Of the processes of that line that report themselves alive and are: of a worker, Dramatiq's child."""
        master = self._processes[name].pid
        family = {master, *_children(master)}
        return [one.pid for one in living(self.redis) if one.process == name and one.pid in family]

    def in_hand(self, *queues: str) -> bool:
        """Whether a worker has messages of those queues right now."""
        keys = (self.redis.scan_iter(f"tocsin:__acks__.*.{queue}", count=1000) for queue in queues)
        return any(key for found in keys for key in found)

    def taken(self) -> bool:
        """Whether an intake has entries of the stream that it has not acknowledged."""
        pending: Any = self.redis.xpending("tocsin:events", "intake")
        return bool(pending["pending"])

    def query(self, sql: str, *values: object) -> list[Any]:
        with psycopg.connect(self.servers.database_url, autocommit=True) as connection:
            return connection.execute(sql, values or None).fetchall()

    def left_in_redis(self) -> int:
        """Messages not acknowledged, in queues or in hands, and entries in the stream."""
        messages = sum(int(str(self.redis.hlen(key))) for key in self.redis.scan_iter("tocsin:*.msgs", count=1000))
        return messages + int(str(self.redis.xlen("tocsin:events")))

    # ---- what can be done to it

    def kill(self, name: str) -> None:
        """The process of that line; of a worker, Dramatiq's master."""
        os.kill(self._processes[name].pid, signal.SIGKILL)

    def restart(self, name: str) -> None:
        """As a deployment does: SIGTERM, and the next one when that has ended in order."""
        process = self._processes[name]
        process.ask_to_stop()
        self.wait_until(lambda: process.ended() is not None, GRACE)
        assert process.ended() == 0, f"{name} ended with {process.ended()}"
        self.wait_until(lambda: process.ended() is None, READY_SECONDS)
        self.wait_until(self.is_ready, READY_SECONDS)

    def kill_with_work(self, name: str, has_work: Callable[[], bool]) -> None:
        """That process (of a worker, Dramatiq's child) at a moment when it has work in hand: it is stopped, looked
        at, and goes on if it has none."""
        pid = self.pids(name)[-1]

        def killed() -> bool:
            os.kill(pid, signal.SIGSTOP)
            found = has_work()
            os.kill(pid, signal.SIGKILL if found else signal.SIGCONT)
            return found

        self.wait_until(killed, 20)

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """As a machine that is suspended."""
        pid = self.pids(name)[-1]
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def without_postgres(self) -> Iterator[None]:
        """An immediate stop, which is a crash: connections are cut and the log is replayed at the next start."""
        server = self.servers.postgres
        assert server
        os.kill(server.pid, signal.SIGQUIT)
        assert server.wait(time.monotonic() + 10)
        try:
            yield
        finally:
            server.launch()
            self.wait_until(self._postgres_answers, 30)

    @contextmanager
    def without_valkey(self, *, emptied: bool) -> Iterator[None]:
        """Emptied: it is killed and forgets everything. Else it stops in order and keeps its data."""
        server = self.servers.valkey
        assert server
        if emptied:
            server.kill()
            shutil.rmtree(self._home / "valkey" / "appendonlydir")
        else:
            server.ask_to_stop()
        assert server.wait(time.monotonic() + 10)
        try:
            yield
        finally:
            server.launch()
            self.wait_until(self._valkey_answers, 30)

    def _postgres_answers(self) -> bool:
        try:
            return bool(self.query("SELECT 1"))
        except psycopg.OperationalError:
            return False

    def _valkey_answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except redis.RedisError:
            return False


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
