"""`GET /api/notifications/stream`: server-sent events (WHATWG HTML, section 9.2).

    event: unread-count   {"count": n}                    first of all, and after every change
    event: notification   InboxItem, with `id: <seq>`
    event: read           {"ids": [...]} or {"all": true}
    event: archived       {"ids": [...]}
    event: gap            {"reason": ...}                 the list has to be read again

Whoever comes with `Last-Event-ID` (or `?lastEventId=`) is told what came after it, once and in order. The first
block has an `id` and no data: a browser keeps the place although nothing happened yet.

Written on bare ASGI because of its size: on this stack sse-starlette takes 44 KiB a connection and a bare
response 29, and the budget is 35. A connection is the one task uvicorn made for it; it waits in `receive`, which
also tells when the browser is gone, and is woken by moving the deadline of that wait.
"""

import asyncio
import contextlib
import random
import time

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from workers.gateway import counters
from workers.gateway.auth import Auth
from workers.gateway.connection import Connection, Event
from workers.gateway.hub import Hub
from workers.gateway.refusal import Refused

PING = 20.0
"""Seconds of silence after which a comment is sent; proxies cut what is silent for 30."""
BLOCKED = 10.0
"""Seconds a write may wait for a reader."""
NOWHERE = 2**63 - 1
"""A place no inbox is ever at: what an unreadable Last-Event-ID means."""
_AT_ONCE = 50
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]


def frame(event: Event) -> bytes:
    place = b"" if event.seq is None else b"id: %d\n" % event.seq
    return b"event: %b\n%bdata: %b\n\n" % (event.name.encode(), place, event.data)


def first_frame(place: int) -> bytes:
    """Where this browser stands, and how long it should wait before it comes again: not all at the same time."""
    return b"id: %d\nretry: %d\n\n" % (place, random.randint(1000, 4000))  # noqa: S311


def last_seen(request: Request) -> int | None:
    """The place this browser wants to go on from; None: from now on."""
    given = request.headers.get("last-event-id") or request.query_params.get("lastEventId")
    if not given:
        return None
    return int(given) if given.isascii() and given.isdigit() and len(given) < 19 else NOWHERE


class Gone(Exception):
    """The browser left."""


class Blocked(Exception):
    """The browser did not read for too long."""


class Writer:
    """Writes to one browser, and sleeps until there is something to write."""

    __slots__ = ("_receive", "_send", "_sleep")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._sleep: asyncio.Timeout | None = None

    async def write(self, message: Message) -> None:
        """Raises Blocked."""
        try:
            async with asyncio.timeout(BLOCKED):
                await self._send(message)
        except TimeoutError:
            raise Blocked from None

    async def body(self, body: bytes, more: bool = True) -> None:
        await self.write({"type": "http.response.body", "body": body, "more_body": more})

    async def sleep(self, seconds: float) -> None:
        """Until `wake`, or for so long. Raises Gone."""
        try:
            async with asyncio.timeout(seconds) as self._sleep:
                while (await self._receive())["type"] != "http.disconnect":
                    continue
                raise Gone
        except TimeoutError:
            return
        finally:
            self._sleep = None

    def wake(self) -> None:
        if self._sleep:
            self._sleep.reschedule(0)
            self._sleep = None


class Stream:
    """The ASGI application behind the route."""

    def __init__(self, hub: Hub, auth: Auth) -> None:
        self._hub, self._auth = hub, auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if scope["method"] != "GET":
            raise Refused(405, "this is a stream: GET it", headers={"allow": "GET"})
        identity = await self._auth.handshake(request)
        place = last_seen(request)
        writer = Writer(receive, send)
        connection = self._hub.admit(identity.user, identity.expires, "sse", writer.wake)
        abort = scope.get("tocsin.abort")
        del request, scope
        try:
            opening = await self._hub.open(connection, place)
            await writer.write({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await writer.body(first_frame(opening.place))
            await self._tell(connection, writer, opening.events)
            await writer.body(b"", more=False)
        except Gone:
            return
        except Blocked:
            connection.end("slow")
            if abort:
                abort()
                with contextlib.suppress(Gone):
                    await writer.sleep(1)  # until uvicorn has noticed: it complains of half an answer
        finally:
            self._hub.leave(connection)

    @staticmethod
    async def _tell(connection: Connection, writer: Writer, events: list[Event]) -> None:
        """Until the token expires or the hub ends the connection. Raises Gone, Blocked."""
        while True:
            for begin in range(0, len(events), _AT_ONCE):
                some = events[begin : begin + _AT_ONCE]
                await writer.body(b"".join(map(frame, some)))
                for event in some:
                    counters.SENT[event.name].inc()
            left = connection.expires - time.time()
            if connection.ended or left <= 0:
                return
            events = connection.take()
            if not events:
                await writer.sleep(min(PING, left))
                events = connection.take()
                if not events and not connection.ended:
                    await writer.body(b": ping\n\n")
