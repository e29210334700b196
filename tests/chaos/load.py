"""Steady load through both doors, and browsers that watch: one live connection for each user.

All of it is one asyncio loop in a thread of its own. Whoever sends repeats the same until a door has taken it, as
a producer should; whoever watches reconnects with Last-Event-ID after the time the gateway asked for, as a browser
does.
"""

import asyncio
import json
import random
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
import jwt
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tests.chaos.ledger import Entry, Ledger

TYPE = "tick"
PAUSE = 0.3
"""Seconds until a producer sends again what was not taken."""
TICK = 0.02
MOST_IN_A_CALL = 5
_PASSING = {429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Addresses:
    api: str
    gateway: str
    redis: str
    api_key: str
    jwt_secret: str


class Load:
    """`rate` events a second for as long as it is not ended, each for one of `users` people, half of them through
    the stream unless `stream` is off. Use it in a `with`: it begins when every browser is connected."""

    def __init__(self, to: Addresses, rate: int, users: int, stream: bool) -> None:
        self.ledger = Ledger()
        self.name = f"run-{uuid4().hex[:8]}"
        self.users = [f"{self.name}-user-{number}" for number in range(users)]
        self._to, self._rate, self._stream = to, rate, stream
        self._random = random.Random(self.name)
        self._connected: set[str] = set()
        self._sending = True
        self._produced = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)
        self._loop.close()

    def end(self) -> None:
        """Sends nothing new, as soon as this returns; what is not yet accepted is sent on."""
        self._sending = False
        assert self._produced.wait(30)

    def check(self) -> None:
        """Raises what went wrong in here."""
        if self._failure:
            raise self._failure

    async def _run(self) -> None:
        endless = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
        limited = aiohttp.ClientTimeout(total=30)
        authorization = {"authorization": f"Bearer {self._to.api_key}", "content-type": "application/json"}
        async with (
            aiohttp.ClientSession(timeout=endless, connector=aiohttp.TCPConnector(limit=0)) as gateway,
            aiohttp.ClientSession(timeout=limited, headers=authorization) as api,
            redis.asyncio.Redis.from_url(
                self._to.redis, socket_timeout=5, retry=Retry(NoBackoff(), 0), max_connections=200
            ) as client,
        ):
            for user in self.users:
                self._spawn(self._watch(gateway, user))
            while len(self._connected) < len(self.users) and not self._over.is_set():
                await asyncio.sleep(TICK)
            try:
                await self._produce(api, client)
            finally:
                self._produced.set()
            await self._over.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            self._failure = task.exception()

    async def _produce(self, api: aiohttp.ClientSession, client: redis.asyncio.Redis) -> None:
        began, sent, added = time.monotonic(), 0, 0
        while self._sending and not self._over.is_set():
            await asyncio.sleep(TICK)
            due = int((time.monotonic() - began) * self._rate) - sent
            sent += due
            while due > 0:
                if self._stream and added < len(self.ledger.entries) / 2:
                    many = 1
                    self._spawn(self._add(client, self._event()))
                    added += 1
                else:
                    many = min(due, self._random.randint(1, MOST_IN_A_CALL))
                    self._spawn(self._post(api, [self._event() for _ in range(many)]))
                due -= many

    def _event(self) -> dict[str, Any]:
        entry = Entry(f"{self.name}-{len(self.ledger.entries)}", self._random.choice(self.users))
        self.ledger.entries[entry.id] = entry
        return {"id": entry.id, "type": TYPE, "recipients": [entry.user], "data": {"event": entry.id}}

    async def _post(self, api: aiohttp.ClientSession, events: list[dict[str, Any]]) -> None:
        body = json.dumps(events if len(events) > 1 else events[0])
        while True:
            try:
                async with api.post(f"{self._to.api}/v1/events", data=body) as answer:
                    if answer.status == 202:
                        await answer.read()
                        self.ledger.accept([event["id"] for event in events])
                        return
                    assert answer.status in _PASSING, await answer.text()
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            await asyncio.sleep(PAUSE)

    async def _add(self, client: redis.asyncio.Redis, event: dict[str, Any]) -> None:
        while True:
            try:
                await client.xadd("tocsin:events", {"event": json.dumps(event)})
            except (RedisError, OSError):
                await asyncio.sleep(PAUSE)
            else:
                self.ledger.accept([event["id"]])
                return

    async def _watch(self, gateway: aiohttp.ClientSession, user: str) -> None:
        claims = {"sub": user, "aud": "tocsin", "exp": time.time() + 3600}
        token = jwt.encode(claims, self._to.jwt_secret, algorithm="HS256")
        screen = Screen(user, self.ledger)
        while True:
            headers = {"authorization": f"Bearer {token}"}
            if screen.place:
                headers["last-event-id"] = screen.place
            try:
                url = f"{self._to.gateway}/api/notifications/stream"
                async with gateway.get(url, headers=headers) as answer:
                    assert answer.status == 200 or answer.status in _PASSING, await answer.text()
                    async for line in answer.content:
                        if answer.status == 200:
                            screen.hear(line.decode().rstrip("\n"))
                            self._connected.add(user)
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            await asyncio.sleep(screen.retry)


class Screen:
    """Server-sent events (WHATWG HTML, 9.2), as far as the gateway uses them. `place`: the last id; `retry`:
    seconds to wait before the next connection."""

    def __init__(self, user: str, ledger: Ledger) -> None:
        self.place, self.retry = "", 0.5
        self._user, self._ledger = user, ledger
        self._name, self._id, self._data = "", "", ""

    def hear(self, line: str) -> None:
        key, _, value = line.partition(": ")
        match key:
            case "event":
                self._name = value
            case "id":
                self._id = value
            case "data":
                self._data = value
            case "retry":
                self.retry = int(value) / 1000
            case "":
                self._told()

    def _told(self) -> None:
        name, id_, data = self._name, self._id, self._data
        self._name, self._id, self._data = "", "", ""
        if name == "notification":
            if self.place and int(id_) <= int(self.place):
                self._ledger.odd["out of order"] += 1
            self._ledger.show(self._user, json.loads(data)["data"]["event"])
        elif name == "gap" and (reason := json.loads(data)["reason"]) != "changed":  # that says: look again
            self._ledger.odd[f"gap: {reason}"] += 1
        if id_:
            self.place = id_
