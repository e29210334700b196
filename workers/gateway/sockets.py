"""Socket.IO at `/socket.io`: the same events as the stream, and two that the browser sends.

    server   unread-count {"count": n} · notification InboxItem · read {"ids"} or {"all"} · archived {"ids"} · gap
    client   mark-as-read (id) · mark-all-as-read; each acknowledged with {"ok": true, "count": n} or
             {"ok": false, "error": "..."} · visible (true or false): whether somebody can see the page

`auth` of the connection: {"token": JWT, "lastSeq": the last place seen, to go on from there, "visible": false when
nobody can see the page}. Whose events these are is said by the token alone; there are no rooms to ask for. The hub
feeds each socket: python-socketio's Redis manager decodes every event on every node, and loses those of an outage.

engine.io leaves three doors open that are closed here: a socket that never says who it is (closed after 6 s), a
queue without bound (events wait here, bounded, until there is room in it), a write that waits for ever (Guard).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import socketio
from engineio.exceptions import SocketIsClosedError
from psycopg import Error as PostgresError
from socketio.exceptions import ConnectionRefusedError as SocketRefused
from starlette.requests import HTTPConnection, Request
from starlette.types import Receive, Scope, Send

from workers import log
from workers.gateway import counters
from workers.gateway.auth import Auth
from workers.gateway.changes import Changes
from workers.gateway.connection import Connection, Event
from workers.gateway.guard import Guard
from workers.gateway.hub import Hub
from workers.gateway.refusal import Refused, refuse, unknown
from workers.gateway.stream import NOWHERE
from workers.gateway.tasks import Tasks
from workers.gateway.writer import BLOCKED, Blocked, Gone

AUTHENTICATE = 6.0
"""Seconds a socket may take to say who it is."""
MAX_MESSAGE = 16 * 1024
_SWEEP = 1.0
_ROOM = {"websocket": 64, "polling": 12}
"""Packets in engine.io's queue: a polling client takes at most 16 at a time."""


class Sockets:
    """The ASGI application below /socket.io, and its sockets. `sid` is Socket.IO's name of a connection, `session`
    engine.io's of what carries it."""

    def __init__(self, hub: Hub, auth: Auth, changes: Changes, origins: frozenset[str]) -> None:
        self._hub, self._auth, self._changes = hub, auth, changes
        self._io = socketio.AsyncServer(
            async_mode="asgi",
            cors_allowed_origins=sorted(origins),  # never [] and never "*": both switch the check off
            max_http_buffer_size=MAX_MESSAGE,
            http_compression=False,
            ping_interval=20,
            ping_timeout=20,
            logger=logging.getLogger("socketio"),
            engineio_logger=logging.getLogger("engineio"),
        )
        self._io.on("connect", self._connect)
        self._io.on("disconnect", self._disconnect)
        self._io.on("mark-as-read", self._mark_as_read)
        self._io.on("mark-all-as-read", self._mark_all_as_read)
        self._io.on("visible", self._visible)
        self._app = socketio.ASGIApp(self._io)
        self._connections: dict[str, Connection] = {}
        self._tasks = Tasks()
        self._guards: dict[str, Guard] = {}
        self._anonymous_since: dict[str, float] = {}
        self._known: set[str] = set()

    async def start(self) -> None:
        self._tasks.spawn(self._sweep())

    async def stop(self) -> None:
        await self._tasks.stop()
        await self._io.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asking = HTTPConnection(scope)
        try:
            self._auth.check_origin(asking.headers, by_cookie=False)
        except Refused as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await (await refuse(Request(scope), error))(scope, receive, send)
            return
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        guard = scope["tocsin.guard"] = Guard(receive, send)
        session = asking.query_params.get("sid")  # of a polling session that is upgraded
        if session:
            self._guards[session] = guard
        try:
            await self._app(scope, guard.receive, guard.send)
        finally:
            if session:
                self._guards.pop(session, None)

    async def _connect(self, sid: str, environ: dict[str, Any], auth: object) -> None:
        wake = asyncio.Event()
        try:
            identity = self._auth.socket(HTTPConnection(environ["asgi.scope"]), auth)
            visible = not (isinstance(auth, dict) and auth.get("visible") is False)
            connection = self._hub.admit(identity.user, identity.expires, "socketio", wake.set, visible=visible)
        except Refused as error:
            raise SocketRefused(error.detail, {"status": error.status}) from None
        session = self._io.manager.eio_sid_from_sid(sid, "/")
        self._known.add(session)
        self._connections[sid] = connection
        self._tasks.spawn(self._serve(session, connection, wake, _last_seen(auth)))

    async def _disconnect(self, sid: str, _reason: str) -> None:
        if connection := self._connections.pop(sid, None):
            connection.end("gone")

    async def _serve(self, session: str, connection: Connection, wake: asyncio.Event, place: int | None) -> None:
        """Until the socket goes, its token expires, or the hub ends the connection."""
        try:
            events = (await self._hub.open(connection, place)).events
            while not connection.ended:
                for event in events:
                    await self._tell(session, event)
                left = connection.expires - time.time()
                if left <= 0:
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, 3600)):
                        await wake.wait()
                wake.clear()
                events = connection.take()
        except Blocked:
            connection.end("slow")
        except (Gone, SocketIsClosedError):
            pass
        except PostgresError as error:
            log.logger().warning("socket_not_served", error=type(error).__name__)
        finally:
            self._hub.leave(connection)
            await self._end(session)

    async def _tell(self, session: str, event: Event) -> None:
        """Writes an EVENT packet of the Socket.IO protocol (version 5), whose JSON is made once for all sockets.
        Raises Gone, Blocked."""
        deadline = time.monotonic() + BLOCKED
        while True:
            socket = self._io.eio.sockets.get(session)
            if socket is None or socket.closed:
                raise Gone
            if socket.queue.qsize() < _ROOM["websocket" if socket.upgraded else "polling"]:
                break
            if time.monotonic() > deadline:
                raise Blocked
            await asyncio.sleep(0.01)
        await self._io.eio.send(session, f'2["{event.name}",{event.data.decode()}]')
        counters.SENT[event.name].inc()

    async def _mark_as_read(self, sid: str, given: object = None, *_: object) -> dict[str, object]:
        try:
            id_ = UUID(str(given))
        except ValueError:
            return {"ok": False, "error": unknown().detail}
        return await self._change(sid, lambda user: self._changes.change(user, id_, "read"))

    async def _mark_all_as_read(self, sid: str, *_: object) -> dict[str, object]:
        return await self._change(sid, self._changes.read_all)

    async def _visible(self, sid: str, given: object = None, *_: object) -> dict[str, object]:
        if not isinstance(given, bool):
            return {"ok": False, "error": "say true or false"}
        if connection := self._connections.get(sid):
            connection.visible = given
        return {"ok": True}

    async def _change(self, sid: str, change: Callable[[str], Awaitable[int]]) -> dict[str, object]:
        connection = self._connections.get(sid)
        if connection is None or connection.expires <= time.time():
            return {"ok": False, "error": "the token has expired"}
        try:
            return {"ok": True, "count": await change(connection.user)}
        except Refused as error:
            return {"ok": False, "error": error.detail}
        except PostgresError as error:
            log.logger().warning("socket_change_failed", error=type(error).__name__)
            return {"ok": False, "error": "the database is away; try again in a moment"}

    async def _sweep(self) -> None:
        """Ends sessions that did not say who they are in time."""
        while True:
            now = time.monotonic()
            sessions = set(self._io.eio.sockets)
            self._known &= sessions
            anonymous = sessions - self._known
            self._anonymous_since = {s: self._anonymous_since.get(s, now) for s in anonymous}
            for session, since in self._anonymous_since.items():
                if now - since > AUTHENTICATE:
                    self._tasks.spawn(self._end(session))
            await asyncio.sleep(_SWEEP)

    async def _end(self, session: str) -> None:
        """Closes whatever carries the session; a browser comes again by itself, and resumes."""
        environ = self._io.environ.get(session)
        with contextlib.suppress(TimeoutError, SocketIsClosedError):
            async with asyncio.timeout(1):
                await self._io.eio.disconnect(session)
        guard = self._guards.get(session) or (environ and environ["asgi.scope"].get("tocsin.guard"))
        if guard:
            guard.end()


def _last_seen(auth: object) -> int | None:
    given = auth.get("lastSeq") if isinstance(auth, dict) else None
    if given is None:
        return None
    return given if isinstance(given, int) and 0 <= given < NOWHERE else NOWHERE
