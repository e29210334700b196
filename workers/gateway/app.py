"""The gateway, put together: what a browser talks to. REST, the stream, Socket.IO, the demo page, health."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from pipelines.catalog import Catalog
from workers import health
from workers.gateway.auth import Auth
from workers.gateway.changes import Changes
from workers.gateway.devices import Devices
from workers.gateway.hub import Hub
from workers.gateway.notifications import Notifications
from workers.gateway.preferences import Preferences
from workers.gateway.presence import Presence
from workers.gateway.refusal import Refused, answer, refuse
from workers.gateway.session import Session
from workers.gateway.sockets import Sockets
from workers.gateway.stream import Stream
from workers.gateway.times import Times
from workers.gateway.unsubscribe import Unsubscribe
from workers.settings import Settings

STATIC = Path(__file__).parent / "static"
POOL_SIZE = 10
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_OPTIONS = "-c statement_timeout=5000 -c idle_in_transaction_session_timeout=5000 -c timezone=UTC"


class Page(StaticFiles):
    """Files of ./static, which a browser asks for again and gets when they changed."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers.update(_PAGE_HEADERS)
        return response


class Gateway:
    """The ASGI application. Opens nothing before its lifespan starts. Raises TocsinError: no DATABASE_URL, no
    REDIS_URL, a broken template."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = AsyncConnectionPool(
            settings.conninfo,
            min_size=1,
            max_size=POOL_SIZE,
            timeout=5,
            check=AsyncConnectionPool.check_connection,
            kwargs={"autocommit": True, "options": _OPTIONS, "application_name": "tocsin-gateway"},
            open=False,
        )
        # One retry: a connection that Redis closed while it waited in the pool is no outage.
        self._redis = Redis.from_url(
            settings.redis, socket_timeout=2, socket_connect_timeout=1, retry=Retry(NoBackoff(), 1)
        )
        catalog = Catalog.load(settings.templates, settings.hosts)
        auth = Auth(settings, self._redis)
        changes = Changes(self._pool, self._redis)
        self.hub = Hub(self._pool, settings.redis)
        self._sockets = Sockets(self.hub, auth, changes, settings.origins)
        self._presence = Presence(self._redis, auth, self.hub.present)
        self._web = Starlette(
            routes=[
                *self._pages(),
                *_api(Notifications(self._pool, auth, changes), Stream(self.hub, auth)),
                *_session(Session(settings, auth), settings.development),
                *_preferences(Preferences(self._pool, auth, catalog)),
                *_times(Times(self._pool, auth)),
                *_devices(Devices(self._pool, auth, settings)),
                Route("/api/presence", self._presence.post, methods=["POST"]),
                *Unsubscribe(self._pool, catalog).routes(),
            ],
            middleware=[
                Middleware(
                    CORSMiddleware,
                    allow_origins=sorted(settings.origins),
                    allow_methods=["GET", "POST", "PUT", "DELETE"],
                    allow_headers=["authorization", "content-type", "last-event-id"],
                    allow_credentials=True,
                )
            ],
            exception_handlers={
                Refused: refuse,
                HTTPException: refuse,
                psycopg.OperationalError: refuse,
                RedisError: refuse,
                Exception: refuse,
            },
            lifespan=self._lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Beside Starlette, because python-socketio sets its own CORS headers.
        sockets = scope["type"] != "lifespan" and f"{scope['path']}/".startswith("/socket.io/")
        await (self._sockets if sockets else self._web)(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self._pool.open()
        await self.hub.start()
        await self._sockets.start()
        await self._presence.start()
        try:
            yield
        finally:
            await self._presence.stop()
            await self._sockets.stop()
            await self.hub.stop()
            await self._redis.aclose()
            await self._pool.close()

    def _pages(self) -> list[Route | Mount]:
        return [
            Route("/", _index),
            Route("/notifications", _index),
            Mount("/static", Page(directory=STATIC)),
            Route("/healthz", _healthz),
            Route("/readyz", self._readyz),
            Route("/metrics", _metrics),
        ]

    async def _readyz(self, _: Request) -> Response:
        checks = await asyncio.to_thread(health.readiness, self._settings)
        return answer(checks, 200 if set(checks.values()) == {"ok"} else 503)


def _api(notifications: Notifications, stream: Stream) -> list[Route]:
    root = "/api/notifications"
    return [
        Route(root, notifications.list),
        Route(f"{root}/stream", stream, methods=["GET"]),
        Route(f"{root}/unread-count", notifications.unread_count),
        Route(f"{root}/read-all", notifications.read_all, methods=["POST"]),
        Route(f"{root}/{{id}}/read", notifications.read, methods=["POST"]),
        Route(f"{root}/{{id}}/clicked", notifications.clicked, methods=["POST"]),
        Route(f"{root}/{{id}}/archive", notifications.archive, methods=["POST"]),
    ]


def _session(session: Session, development: bool) -> list[Route]:
    routes = [
        Route("/api/session", session.get),
        Route("/api/tickets", session.ticket, methods=["POST"]),
    ]
    if development:
        routes.append(Route("/dev/token", session.development_token, methods=["POST"]))
    return routes


def _preferences(preferences: Preferences) -> list[Route]:
    return [
        Route("/api/preferences", preferences.get, methods=["GET"]),
        Route("/api/preferences", preferences.put, methods=["PUT"]),
    ]


def _times(times: Times) -> list[Route]:
    return [
        Route("/api/settings", times.get, methods=["GET"]),
        Route("/api/settings", times.put, methods=["PUT"]),
    ]


def _devices(devices: Devices) -> list[Route]:
    return [
        Route("/api/push", devices.push, methods=["GET"]),
        Route("/api/devices", devices.put, methods=["PUT"]),
        Route("/api/devices/{id}", devices.delete, methods=["DELETE"]),
    ]


async def _index(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers=_PAGE_HEADERS)


async def _healthz(_: Request) -> Response:
    return answer({"status": "ok"})


async def _metrics(_: Request) -> Response:
    return Response(health.metrics(), headers={"content-type": health.METRICS_TYPE})
