"""Real processes for tests, and one API that many tests share.

A test module asks for it with `pytest_plugins = ["tests.integration.fleet"]`. Tests that share a process use ids
and users of their own (`name`), so that they may run in any order.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import psycopg
import pytest
import redis
import socketio

from workers import embedded, procfile

API_KEY = "test-key-of-the-fleet"
JWT_SECRET = "test-secret-of-at-least-32-bytes!!"
ROOT = Path(__file__).parent.parent.parent
TABLES = ("users", "events", "rejected_events", "notifications", "inboxes", "deliveries", "timers", "dead_letters")


@dataclass
class Running:
    """A process of the fleet; what it writes goes to a file."""

    popen: subprocess.Popen[bytes]
    output: Path

    def lines(self, since: int = 0) -> list[dict[str, Any]]:
        """The log records written so far, from number `since`; each line must be one."""
        whole = self.output.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()[since:]]

    def text(self) -> str:
        return self.output.read_text()

    def stop(self, seconds: float = 10) -> int:
        """Asks it to end, by force after `seconds`; its exit code."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.popen.wait()

    def kill(self) -> None:
        """Ends it and its children at once."""
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def launch(words: list[str], environment: Mapping[str, str], output: Path) -> Running:
    with output.open("ab") as file:
        popen = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
        )
    return Running(popen, output)


def wait_for(running: Running, url: str, seconds: float = 60) -> None:
    """Until `url` is answered with 200."""
    deadline = time.monotonic() + seconds
    while True:
        assert running.popen.poll() is None, running.text()
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, running.text()
        time.sleep(0.05)


@dataclass
class Api:
    """An API process, and what it stores to."""

    process: Running
    url: str
    environment: dict[str, str]
    database: psycopg.Connection[Any]
    redis: redis.Redis
    client: httpx.Client

    def post(self, body: Any, **headers: str) -> httpx.Response:
        """`body` is posted as JSON, or as it is when it is bytes."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(
            "/v1/events", content=content, headers={"content-type": "application/json"} | headers
        )

    def one(self, query: str, *values: object) -> Any:
        row = self.database.execute(query, values).fetchone()
        assert row
        return row[0]

    def stored(self, *ids: str) -> int:
        return int(self.one("SELECT count(*) FROM events WHERE id = ANY(%s)", list(ids)))

    def rows(self) -> dict[str, int]:
        """How many rows each table holds."""
        return {table: self.one(f"SELECT count(*) FROM {table}") for table in TABLES}


def _environment(servers: embedded.Servers, home: Path, redis_database: int) -> Iterator[dict[str, str]]:
    """A migrated database, and one of Redis' numbered databases, so that what other tests do there stays apart."""
    name = f"fleet_{uuid4().hex[:12]}"
    server = servers.database_url.rpartition("/")[0]
    redis_url = f"{servers.redis_url.rpartition('/')[0]}/{redis_database}"
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE tocsin STRATEGY file_copy")
        yield os.environ | {
            "DATABASE_URL": f"{server}/{name}",
            "REDIS_URL": redis_url,
            "TOCSIN_API_KEY": API_KEY,
            "TOCSIN_JWT_SECRET": JWT_SECRET,
            "TOCSIN_GATEWAY_PORT": str(embedded.free_port()),
            "TOCSIN_API_PORT": str(embedded.free_port()),
            "TOCSIN_HOME": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def fleet_environment(
    servers: embedded.Servers, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """`environment` for all tests of a module."""
    yield from _environment(servers, tmp_path_factory.mktemp("home"), 6)


@pytest.fixture(scope="session")
def api(
    servers: embedded.Servers, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    """An API without any other process of the fleet; all tests of this xdist worker share it."""
    for environment in _environment(servers, tmp_path_factory.mktemp("home"), 5):
        url = f"http://127.0.0.1:{environment['TOCSIN_API_PORT']}"
        words = [sys.executable, "-m", "workers.api"]
        process = launch(words, environment, tmp_path_factory.mktemp("api") / "log")
        try:
            wait_for(process, f"{url}/readyz")
            authorization = {"authorization": f"Bearer {API_KEY}"}
            with (
                psycopg.connect(environment["DATABASE_URL"], autocommit=True) as database,
                redis.Redis.from_url(environment["REDIS_URL"]) as client,
                httpx.Client(base_url=url, headers=authorization, timeout=20) as http,
            ):
                yield Api(process, url, environment, database, client, http)
        finally:
            process.stop()


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(environment, "python", "-m", "workers.intake"): a process that ends with the test."""
    yield from _starter(tmp_path)


@pytest.fixture(scope="module")
def start_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """The same for a process that ends with the module."""
    yield from _starter(tmp_path_factory.mktemp("processes"))


def _starter(directory: Path) -> Iterator[Start]:
    running: list[Running] = []

    def started(environment: Mapping[str, str], *words: str) -> Running:
        first = sys.executable if words[0] == "python" else str(Path(sys.executable).with_name(words[0]))
        running.append(launch([first, *words[1:]], environment, directory / f"process-{len(running)}.log"))
        return running[-1]

    yield started
    for process in running:
        process.kill()


@dataclass
class Fleet:
    """The Procfile's processes, and short ways in."""

    environment: dict[str, str]
    start: Start
    database: psycopg.Connection[Any]
    redis: redis.Redis
    api: httpx.Client
    gateway: httpx.Client
    processes: dict[str, Running] = field(default_factory=dict)

    def run(self, *names: str, **changes: str) -> None:
        """Starts these (all without names), and waits until each says it is alive and the servers answer."""
        self.environment |= changes
        commands = procfile.read()
        for name in names or commands:
            self.processes[name] = self.start(self.environment | {"TOCSIN_PROCESS": name}, *commands[name])
        for name, url in (("api", f"{self.api.base_url}/readyz"), ("gateway", f"{self.gateway.base_url}/readyz")):
            if name in (names or commands):
                wait_for(self.processes[name], url)
        deadline = time.monotonic() + 60
        while missing := [name for name in names or commands if not self.pids(name)]:
            assert time.monotonic() < deadline, self.processes[missing[0]].text()
            time.sleep(0.05)

    def pids(self, name: str) -> list[int]:
        """The processes of that name that say they are alive."""
        return [int(key.rpartition(b":")[2]) for key in self.redis.scan_iter(f"tocsin:alive:{name}:*")]

    def one(self, query: str, *values: object) -> Any:
        row = self.database.execute(query, values).fetchone()
        assert row
        return row[0]


@pytest.fixture(scope="module")
def fleet(fleet_environment: dict[str, str], start_once: Start) -> Iterator[Fleet]:
    """A fleet of which nothing runs yet: fleet.run()."""
    api_url = f"http://127.0.0.1:{fleet_environment['TOCSIN_API_PORT']}"
    gateway_url = f"http://127.0.0.1:{fleet_environment['TOCSIN_GATEWAY_PORT']}"
    key = {"authorization": f"Bearer {API_KEY}"}
    with (
        psycopg.connect(fleet_environment["DATABASE_URL"], autocommit=True) as database,
        redis.Redis.from_url(fleet_environment["REDIS_URL"]) as client,
        httpx.Client(base_url=api_url, headers=key, timeout=20) as api_client,
        httpx.Client(base_url=gateway_url, timeout=20) as gateway_client,
    ):
        made = Fleet(fleet_environment, start_once, database, client, api_client, gateway_client)
        yield made
        for process in made.processes.values():
            process.popen.terminate()


class Listening:
    """A user's two open connections to the gateway, an SSE stream and a Socket.IO client, and what each was told:
    (event name, content), in order."""

    def __init__(self, gateway: str, token: str) -> None:
        self._gateway, self._token = gateway, token
        self.stream: list[tuple[str, Any]] = []
        self.socket: list[tuple[str, Any]] = []
        self.loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._listen(),))

    def __enter__(self) -> "Listening":
        self._thread.start()
        deadline = time.monotonic() + 20
        while not (self.stream and self.socket):  # each is told the unread count first
            assert self._thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)
        self.loop.close()

    @property
    def both(self) -> tuple[list[Any], list[Any]]:
        """The notifications told by each."""
        stream, socket = (
            [said for name, said in list(of) if name == "notification"] for of in (self.stream, self.socket)
        )
        return stream, socket

    async def _listen(self) -> None:
        reading = asyncio.create_task(self._read())
        client = socketio.AsyncClient(reconnection=False)
        client.on("*", lambda name, said: self.socket.append((name, said)))
        await client.connect(self._gateway, auth={"token": self._token})
        try:
            await self._over.wait()
        finally:
            await client.disconnect()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self) -> None:
        """Server-sent events (WHATWG HTML, 9.2), as far as the gateway uses them."""
        headers = {"authorization": f"Bearer {self._token}"}
        url = f"{self._gateway}/api/notifications/stream"
        name = ""
        async with httpx.AsyncClient(timeout=None) as client, client.stream("GET", url, headers=headers) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                key, _, value = line.partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    self.stream.append((name, json.loads(value)))


@pytest.fixture
def listening(fleet: Fleet) -> Callable[[str], Listening]:
    """with listening("ada") as heard: …"""

    def opened(user: str) -> Listening:
        claims = {"sub": user, "aud": "tocsin", "exp": time.time() + 600}
        return Listening(str(fleet.gateway.base_url), jwt.encode(claims, JWT_SECRET, algorithm="HS256"))

    return opened


@pytest.fixture
def inbox(fleet: Fleet) -> Callable[..., httpx.Response]:
    """inbox("ada", "POST", "/ID/read"): a request to the user's own REST API."""

    def ask(user: str, method: str = "GET", path: str = "") -> httpx.Response:
        token = jwt.encode({"sub": user, "aud": "tocsin", "exp": time.time() + 600}, JWT_SECRET, algorithm="HS256")
        return fleet.gateway.request(
            method, f"/api/notifications{path}", headers={"authorization": f"Bearer {token}"}
        )

    return ask


@pytest.fixture
def name() -> str:
    """A name nobody else uses: for ids and users."""
    return uuid4().hex[:12]


@pytest.fixture(scope="session")
def comment() -> Callable[..., dict[str, Any]]:
    """comment("ada", id="c-1"): an event that every door takes."""

    def made(user: str | list[str], **fields: Any) -> dict[str, Any]:
        data = {"userName": "Bob", "comment": "Great post!", "postId": "p-1", "commentId": "c-1"}
        return {"type": "comment", "recipients": [user] if isinstance(user, str) else user, "data": data} | fields

    return made
