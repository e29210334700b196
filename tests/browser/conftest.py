"""A real gateway, a real Chromium, and rows and publications as the workers write them."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import msgspec
import psycopg
import pytest
import redis
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

from schema.identity import group_id, milliseconds_of, notification_id
from schema.wire import Group, InboxItem, Publication, user_channel
from tests.conftest import JWT_SECRET, ROOT
from workers import embedded

expect.set_options(timeout=20_000)  # milliseconds; a busy machine takes its time
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ROW = """
INSERT INTO notifications (id, user_id, seq, type, category, importance, title, message, action_url, group_count,
    "leading", created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
MEMBER = """
INSERT INTO notifications (id, user_id, type, category, importance, title, message, action_url, group_id)
VALUES (%s, %s, 'comment', 'social', 'normal', %s, '', '/posts/p-42', %s)
"""


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Ends with its module: while it lives, its event loop runs in this thread, where other tests want theirs."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield launched
        launched.close()


@dataclass
class Gateway:
    """The gateway as a process that a test may kill and start again, at the same address."""

    url: str
    environment: dict[str, str]
    eventually: Callable[..., object]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workers.gateway"], cwd=ROOT, env=self.environment, stdout=subprocess.DEVNULL
        )
        self.eventually(self.answers, seconds=60)

    def answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, f"the gateway ended with {self.process.returncode}"
        try:
            return httpx.get(f"{self.url}/healthz", timeout=1).is_success
        except httpx.TransportError:
            return False

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self.process:
            self.process.send_signal(how)
            self.process.wait(timeout=20)
        self.process = None


class Application(ThreadingHTTPServer):
    """Another site on this machine, which may embed the element: it answers every path with its `page`."""

    page = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Application

    def do_GET(self) -> None:
        body = self.server.page.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="session")
def application() -> Iterator[Application]:
    with Application() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def one_gateway(
    application: Application,
    template_database: str,
    servers: embedded.Servers,
    tmp_path_factory: pytest.TempPathFactory,
    free_port: Callable[[], int],
    eventually: Callable[..., object],
) -> Iterator[Gateway]:
    """One for all tests of this xdist worker: a start takes longer than most tests here."""
    server = template_database.rpartition("/")[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE browser TEMPLATE tocsin STRATEGY file_copy")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "DATABASE_URL": f"{server}/browser",
        "REDIS_URL": servers.redis_url,
        "TOCSIN_GATEWAY_PORT": str(port),
        "TOCSIN_ALLOWED_ORIGINS": f"{url},{application.url}",
        "TOCSIN_JWT_SECRET": JWT_SECRET,
        "TOCSIN_DEVELOPMENT": "1",
        "TOCSIN_HOME": str(tmp_path_factory.mktemp("home")),
        "PYTHONPATH": str(ROOT),
    }
    made = Gateway(url, environment, eventually)
    yield made
    made.kill()


@pytest.fixture
def gateway(one_gateway: Gateway) -> Gateway:
    """Running, whatever the test before did to it."""
    if not one_gateway.process:
        one_gateway.start()
    return one_gateway


@pytest.fixture
def person() -> Callable[[str], str]:
    """person("ada"): her user id in this test. The inboxes of other tests are in the same database."""
    test = uuid4().hex[:8]
    return lambda name: f"{name}-{test}"


@dataclass
class Inboxes:
    """Writes notifications as fan_out does, and tells the gateways as deliver-web does."""

    database: psycopg.Connection
    redis: redis.Redis
    person: Callable[[str], str]
    made: int = 0

    def tell(self, user: str, title: str, message: str = "", *, publish: bool = True, **fields: Any) -> InboxItem:
        """A notification of its own row. `fields` replace those of the item, such as type or action_url."""
        user = self.person(user)
        self.made += 1
        now = datetime.now(UTC)
        usual = {
            "type": "message",
            "category": "messages",
            "importance": "normal",
            "data": {},
            "action_url": "/messages/m-9",
            "created_at": now,
            "read": False,
        }
        id_ = notification_id(milliseconds_of(now), f"event-{self.made}", user)
        item = self._write(user, id_, usual | fields | {"title": title, "message": message}, settled=0)
        if publish:
            self._publish(user, item)
        return item

    def gather(self, user: str, leading: list[InboxItem], members: list[str], title: str) -> InboxItem:
        """A group's row: takes the place of `leading`, and holds further members of these titles."""
        user = self.person(user)
        group = group_id(leading[0].id)
        for member in members:
            self.made += 1
            now = datetime.now(UTC)
            id_ = notification_id(milliseconds_of(now), f"event-{self.made}", user)
            with self.database.transaction():
                self.database.execute(MEMBER, (id_, user, member, group))
        fields = {
            "type": "comment",
            "category": "social",
            "importance": "normal",
            "title": title,
            "message": "Click to view all",
            "data": {},
            "action_url": "/notifications?type=comment",
            "created_at": datetime.now(UTC),
            "read": False,
            "group": Group(count=len(leading) + len(members), leading=[item.id for item in leading]),
        }
        item = self._write(user, group, fields, settled=len(leading))
        self._publish(user, item)
        return item

    def _write(self, user: str, id_: UUID, fields: dict[str, Any], settled: int) -> InboxItem:
        with self.database.transaction():
            self.database.execute("INSERT INTO users (id) VALUES (%s) ON CONFLICT DO NOTHING", (user,))
            self.database.execute("INSERT INTO inboxes (user_id) VALUES (%s) ON CONFLICT DO NOTHING", (user,))
            self.database.execute("SELECT 1 FROM inboxes WHERE user_id = %s FOR UPDATE", (user,))
            seq = self._one(
                "UPDATE inboxes SET seq = seq + 1, unread = unread + 1 - %s, version = version + 1"
                " WHERE user_id = %s RETURNING seq",
                settled,
                user,
            )
            item = InboxItem(id=id_, seq=seq, **fields)
            group = item.group
            if group:
                self.database.execute(
                    "UPDATE notifications SET group_id = %s WHERE id = ANY(%s)", (id_, group.leading)
                )
            count, leading = (group.count, group.leading) if group else (None, None)
            facts = (id_, user, seq, item.type, item.category, item.importance, item.title, item.message)
            self.database.execute(ROW, (*facts, item.action_url, count, leading, item.created_at))
        return item

    def _publish(self, user: str, item: InboxItem) -> None:
        version, unread = self.database.execute(
            "SELECT version, unread FROM inboxes WHERE user_id = %s", (user,)
        ).fetchone() or (0, 0)
        told = Publication(kind="notification", version=version, unread=unread, item=item)
        self.redis.publish(user_channel(user), msgspec.json.encode(told))

    def unread(self, user: str) -> int:
        return int(self._one("SELECT unread FROM inboxes WHERE user_id = %s", self.person(user)))

    def pretend_unread(self, user: str, count: int) -> None:
        self.database.execute(
            "UPDATE inboxes SET unread = %s, version = version + 1 WHERE user_id = %s", (count, self.person(user))
        )

    def read_rows(self, user: str) -> int:
        counted = "SELECT count(*) FROM notifications WHERE user_id = %s AND read_at IS NOT NULL"
        return int(self._one(counted, self.person(user)))

    def is_set(self, item: InboxItem, column: str) -> bool:
        return bool(self._one(f"SELECT {column} IS NOT NULL FROM notifications WHERE id = %s", item.id))

    def refuses(self, user: str, kind: str) -> bool:
        """Whether the person wants nothing of this type."""
        found = self.database.execute(
            "SELECT enabled FROM notification_preferences WHERE user_id = %s AND type = %s",
            (self.person(user), kind),
        ).fetchone()
        return found == (False,)

    def _one(self, statement: str, *values: object) -> Any:
        row = self.database.execute(statement, values).fetchone()
        assert row
        return row[0]


@pytest.fixture
def inboxes(gateway: Gateway, person: Callable[[str], str]) -> Iterator[Inboxes]:
    with (
        psycopg.connect(gateway.environment["DATABASE_URL"], autocommit=True) as database,
        redis.Redis.from_url(gateway.environment["REDIS_URL"]) as client,
    ):
        yield Inboxes(database, client, person)


@dataclass
class Reader:
    """A person with a browser: one session, any number of tabs. Everything a tab complains of is kept, but for
    what a test expects (a regular expression)."""

    gateway: Gateway
    context: BrowserContext
    expected: str = "^$"
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> "Tab":
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("request", self._notice)
        page.goto(self.gateway.url + path)
        tab = Tab(page)
        page.locator("notification-center .bell[data-status=live]").wait_for()
        return tab

    def _notice(self, request: Request) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.gateway.url).netloc:
            self.foreign.append(request.url)


@dataclass
class Tab:
    """One tab, and where things are in it. Locators see into the shadow root."""

    page: Page

    def __post_init__(self) -> None:
        self.center = self.page.locator("notification-center")
        self.bell = self.center.locator(".bell")
        self.badge = self.center.locator(".badge")
        self.panel = self.center.locator(".panel")
        self.items = self.center.locator(".item")
        self.unread_items = self.center.locator(".item.unread")

    def item(self, title: str) -> Any:
        return self.items.filter(has_text=title)

    def look(self) -> "Tab":
        self.bell.click()
        self.center.locator(".list[aria-busy=false]").wait_for(state="attached")
        return self


@pytest.fixture
def reader(browser: Browser, gateway: Gateway, person: Callable[[str], str]) -> Iterator[Callable[..., Reader]]:
    """reader("ada", viewport=…, color_scheme=…): a signed-in person. Afterwards nothing may have gone wrong in
    the page, and it may have asked nobody but the gateway."""
    readers: list[Reader] = []

    def sign_in(user: str, **options: Any) -> Reader:
        made = Reader(gateway, browser.new_context(**options))
        readers.append(made)
        made.context.set_default_timeout(10_000)
        answer = made.context.request.post(
            f"{gateway.url}/dev/token", data={"user": person(user)}, headers={"Origin": gateway.url}
        )
        assert answer.ok, answer.text()
        return made

    yield sign_in
    for made in readers:
        made.context.close()
        assert [said for said in made.complaints if not re.search(made.expected, said)] == []
        assert made.foreign == []
