"""A gateway process that all tests of a module share, inboxes as the workers write them, and listeners.

A test module asks for it with `pytest_plugins = ["tests.integration.gateways"]`. Tests that share a process have
users of their own (`name`), so that they may run in any order.
"""

import asyncio
import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import httpx
import jwt
import msgspec
import psycopg
import pytest
import redis

from schema.identity import group_id, milliseconds_of, notification_id
from schema.wire import Group, InboxItem, Publication, user_channel

pytest_plugins = ["tests.integration.fleet"]
pytest.register_assert_rewrite(*pytest_plugins)  # before it is imported, or pytest complains

from tests.integration.fleet import JWT_SECRET, Running, launch, wait_for  # noqa: E402

_ROW = """
INSERT INTO notifications (id, user_id, seq, type, category, importance, title, message, action_url, data,
    group_id, group_count, "leading", created_at)
VALUES (%s, %s, %s, %s, 'social', 'normal', %s, 'Hi', '/posts/1', '{"a": "b"}', %s, %s, %s, now())
"""
_MOVE = """
UPDATE inboxes SET seq = seq + 1, unread = unread + 1 - %s, version = version + 1 WHERE user_id = %s
RETURNING seq, version, unread
"""


def signed(user: str, **claims: object) -> str:
    """What the embedding application would have signed."""
    usual = {"sub": user, "aud": "tocsin", "exp": datetime.now(UTC) + timedelta(hours=1)}
    return jwt.encode(usual | claims, JWT_SECRET, algorithm="HS256")


def bearer(user: str, **claims: object) -> dict[str, str]:
    return {"authorization": f"Bearer {signed(user, **claims)}"}


@dataclass
class Inboxes:
    """Writes notifications as fan_out does, and tells the gateways as deliver-web does."""

    database: psycopg.Connection[Any]
    redis: redis.Redis
    _made: int = 0

    def write(self, user: str, title: str = "New", kind: str = "comment") -> Publication:
        """A notification with a row of its own, committed; returns what deliver-web would say of it."""
        self._made += 1
        now = datetime.now(UTC)
        return self._write(user, notification_id(milliseconds_of(now), f"{user}-{self._made}", user), title, kind)

    def tell(self, user: str, title: str = "New", kind: str = "comment") -> InboxItem:
        """A notification, written and published."""
        publication = self.write(user, title, kind)
        self.publish(user, publication)
        assert publication.item
        return publication.item

    def gather(self, user: str, leading: list[InboxItem], further: int = 1) -> InboxItem:
        """A group's row, written and published: it takes the place of `leading`, and has further members."""
        group = group_id(leading[0].id)
        self.database.execute(
            "INSERT INTO notification_groups (id, user_id, type, count, last_notification_id) "
            "VALUES (%s, %s, %s, %s, %s)",
            (group, user, leading[0].type, len(leading) + further, leading[-1].id),
        )
        for number in range(further):
            self._made += 1
            member = notification_id(milliseconds_of(datetime.now(UTC)), f"{user}-member-{self._made}", user)
            facts = (member, user, None, leading[0].type, f"member {number}", group, None, None)
            self.database.execute(_ROW, facts)
        holds = Group(len(leading) + further, [item.id for item in leading])
        publication = self._write(user, group, f"{holds.count} new", leading[0].type, holds)
        self.publish(user, publication)
        assert publication.item
        return publication.item

    def _write(self, user: str, id_: UUID, title: str, kind: str, group: Group | None = None) -> Publication:
        with self.database.transaction():
            self.database.execute("INSERT INTO users (id) VALUES (%s) ON CONFLICT DO NOTHING", (user,))
            self.database.execute("INSERT INTO inboxes (user_id) VALUES (%s) ON CONFLICT DO NOTHING", (user,))
            moved = self.database.execute(_MOVE, (len(group.leading) if group else 0, user)).fetchone()
            assert moved
            seq, version, unread = moved
            count, leading = (group.count, group.leading) if group else (None, None)
            self.database.execute(_ROW, (id_, user, seq, kind, title, None, count, leading))
            if group:
                self.database.execute("UPDATE notifications SET group_id = %s WHERE id = ANY(%s)", (id_, leading))
        item = InboxItem(
            id=id_,
            seq=seq,
            type=kind,
            category="social",
            importance="normal",
            title=title,
            message="Hi",
            data={"a": "b"},
            action_url="/posts/1",
            created_at=datetime.now(UTC),
            read=False,
            group=group,
        )
        return Publication("notification", version, unread, item)

    def publish(self, user: str, *publications: Publication) -> None:
        for publication in publications:
            self.redis.publish(user_channel(user), msgspec.json.encode(publication))

    def one(self, query: str, *values: object) -> Any:
        row = self.database.execute(query, values).fetchone()
        return row[0] if row else None

    def unread(self, user: str) -> int:
        return int(self.one("SELECT unread FROM inboxes WHERE user_id = %s", user))

    def counted(self, event: str, kind: str) -> int:
        query = "SELECT coalesce(sum(count), 0) FROM notification_analytics WHERE event = %s AND type = %s"
        return int(self.one(query, event, kind))


@contextmanager
def opened(database_url: str, redis_url: str) -> Iterator[Inboxes]:
    with (
        psycopg.connect(database_url, autocommit=True, application_name="inboxes") as database,
        redis.Redis.from_url(redis_url) as client,
    ):
        yield Inboxes(database, client)


Told = tuple[str, Any]


@dataclass
class Listener:
    """An open stream, read line by line; `last` is the last id, as a browser keeps it."""

    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse
    last: str = ""
    raw: list[str] = field(default_factory=list)

    def next(self, seconds: float = 10) -> Told | None:
        """The next event with data, as (name, data); None when the stream ended."""
        assert self.connection.sock or self.response.fp
        name, data = "message", ""
        deadline = time.monotonic() + seconds
        while True:
            assert time.monotonic() < deadline, f"nothing within {seconds} s; so far {self.raw[-20:]}"
            line = self.response.readline().decode()
            if not line:
                return None
            self.raw.append(line.rstrip("\n"))
            key, _, value = line.rstrip("\n").partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                data = value
            elif key == "id":
                self.last = value
            elif not line.strip() and data:
                return name, json.loads(data)

    def until(self, name: str, seconds: float = 10) -> list[Told]:
        """Every event up to and with the first of that name."""
        told: list[Told] = []
        while not told or told[-1][0] != name:
            event = self.next(seconds)
            assert event, f"the stream ended; so far {told}"
            told.append(event)
        return told

    def seqs(self, count: int) -> list[int]:
        """The places of the next so many notifications, whatever comes in between."""
        return [self.until("notification")[-1][1]["seq"] for _ in range(count)]

    def count(self, wanted: int) -> None:
        """Until the unread count is `wanted`."""
        while self.until("unread-count")[-1][1]["count"] != wanted:
            continue

    def ended(self) -> bool:
        while self.next():
            continue
        return True

    def close(self) -> None:
        self.response.close()
        self.connection.close()


@dataclass
class Gateway:
    """A gateway process and what it reads."""

    process: Running
    url: str
    environment: dict[str, str]
    inboxes: Inboxes
    client: httpx.Client
    listeners: list[Listener] = field(default_factory=list)

    signed = staticmethod(signed)
    bearer = staticmethod(bearer)

    def get(self, user: str, path: str, **query: object) -> httpx.Response:
        return self.client.get(path, params={k: str(v) for k, v in query.items()}, headers=bearer(user))

    def post(self, user: str, path: str, **headers: str) -> httpx.Response:
        return self.client.post(path, headers=bearer(user) | headers)

    def listen(
        self,
        user: str = "",
        last: object = None,
        headers: dict[str, str] | None = None,
        status: int = 200,
        **query: object,
    ) -> Listener:
        """An open stream, with that user's token or with other headers; closed after the test."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=15)
        given = bearer(user) if headers is None else headers
        given = given | ({} if last is None else {"last-event-id": str(last)})
        connection.request("GET", f"/api/notifications/stream?{urlencode(query)}", headers=given)
        listener = Listener(connection, connection.getresponse())
        self.listeners.append(listener)
        assert listener.response.status == status, listener.response.read()
        return listener

    def metric(self, name: str) -> float:
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        raise AssertionError(f"{name} is not among /metrics")


def start(environment: dict[str, str], output: Any) -> tuple[Running, str]:
    """A gateway process that answers, and its address."""
    url = f"http://127.0.0.1:{environment['TOCSIN_GATEWAY_PORT']}"
    running = launch([sys.executable, "-m", "workers.gateway"], environment, output)
    try:
        wait_for(running, f"{url}/healthz", seconds=60)
    except BaseException:
        running.kill()
        raise
    return running, url


@pytest.fixture(scope="module")
def shared_gateway(
    fleet_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    process, url = start(fleet_environment, tmp_path_factory.mktemp("gateway") / "log")
    with (
        opened(fleet_environment["DATABASE_URL"], fleet_environment["REDIS_URL"]) as inboxes,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        yield Gateway(process, url, fleet_environment, inboxes, client)
    process.stop()


@pytest.fixture
def gateway(shared_gateway: Gateway) -> Iterator[Gateway]:
    """The module's gateway; what a test listened to is closed after it, and the gateway must not have failed."""
    said = len(shared_gateway.process.lines())
    yield shared_gateway
    for listener in shared_gateway.listeners:
        listener.close()
    shared_gateway.listeners.clear()
    failures = [line for line in shared_gateway.process.lines(said) if line["level"] in ("error", "critical")]
    assert failures == []


@pytest.fixture(scope="session")
def inboxes_at() -> Callable[[str, str], AbstractContextManager[Inboxes]]:
    """with inboxes_at(database_url, redis_url) as inboxes: …"""
    return opened


@pytest.fixture
def until() -> Callable[..., Any]:
    """until(condition, seconds=30): waits for an answer that is true, in tests that run their own loop."""

    async def wait(condition: Callable[[], Any], seconds: float = 30) -> Any:
        async with asyncio.timeout(seconds):
            while not (found := condition()):
                await asyncio.sleep(0.01)
            return found

    return wait
