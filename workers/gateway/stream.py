"""`GET /api/notifications/stream`: server-sent events (WHATWG HTML, section 9.2).

    event: unread-count   {"count": n}                    first of all, and after every change
    event: notification   InboxItem, with `id: <seq>`
    event: read           {"ids": [...]} or {"all": true}
    event: archived       {"ids": [...]}
    event: gap            {"reason": ...}                 the list has to be read again

`?visible=false` says that nobody can see the page, and `?connection=` what it calls this stream when it says more
of that later: workers/gateway/presence.py.

Whoever comes with `Last-Event-ID` (or `?lastEventId=`) is told what came after it, once and in order. The first
block has an `id` and no data: a browser keeps the place although nothing happened yet.

Written on bare ASGI because of its size: on this stack sse-starlette takes 44 KiB a connection and a bare
response 29, and the budget is 35. How it is written says workers/gateway/writer.py.
"""

import asyncio
import contextlib
import random
import time

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from workers.gateway.auth import Auth
from workers.gateway.hub import Hub, Opening
from workers.gateway.refusal import Refused
from workers.gateway.writer import Blocked, Gone, Writer, pieces

NOWHERE = 2**63 - 1
"""A place no inbox is ever at: what an unreadable Last-Event-ID means."""
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]


def first_frame(place: int) -> bytes:
    """Where this browser stands, and how long it should wait before it comes again: not all at the same time."""
    return b"id: %d\nretry: %d\n\n" % (place, random.randint(1000, 4000))  # noqa: S311


def last_seen(request: Request) -> int | None:
    """The place this browser wants to go on from; None: from now on."""
    given = request.headers.get("last-event-id") or request.query_params.get("lastEventId")
    if not given:
        return None
    return int(given) if given.isascii() and given.isdigit() and len(given) < 19 else NOWHERE


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
        name, visible = request.query_params.get("connection"), request.query_params.get("visible") != "false"
        connection = self._hub.admit(identity.user, identity.expires, "sse", writer.wake, name, visible)
        writer.connection = connection
        abort = scope.get("tocsin.abort")
        del request, scope
        try:
            await self._begin(writer, await self._hub.open(connection, place))
            while not connection.ended and time.time() < connection.expires:
                if events := connection.take():
                    for piece in pieces(events):
                        await writer.body(piece)
                else:
                    await writer.sleep()
            await writer.body(b"", more=False)
        except Gone:
            return
        except Blocked:
            connection.end("slow")
            if abort:
                abort()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await writer.gone()  # until uvicorn has noticed: it complains of half an answer
        finally:
            self._hub.leave(connection)

    @staticmethod
    async def _begin(writer: Writer, opening: Opening) -> None:
        await writer.write({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        first, *more = pieces(opening.events)
        for piece in (first_frame(opening.place) + first, *more):
            await writer.body(piece)
