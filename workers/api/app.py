"""The API for backend services: Litestar, its doors and its documentation."""

import importlib.util
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import redis
from litestar import Litestar, Request, Response, Router, get
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import HTTPException, NotAuthorizedException, ValidationException
from litestar.handlers.base import BaseRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.response import Redirect
from litestar.static_files import create_static_files_router
from prometheus_client import REGISTRY
from psycopg_pool import PoolTimeout

from schema.errors import FieldError
from schema.event import MAX_BODY_BYTES
from workers import health, log
from workers.api import (
    cancellations,
    dead,
    devices,
    events,
    feedback,
    metrics,
    notifications,
    preferences,
    quota,
    times,
    topics,
    users,
)
from workers.api.bodies import Bodies
from workers.api.commits import Commits
from workers.api.documents import Refused, parameter_error
from workers.api.keys import valid
from workers.backlog import Backlog
from workers.problems import MEDIA_TYPE, problem
from workers.resources import catalog, pool
from workers.settings import settings
from workers.status import QueueCollector

RETRY_AFTER = 2
"""Seconds a caller is asked to wait when Postgres is away."""
PERSONAL = re.compile(
    r"^(/v1/users|/v1/email/suppressions|/v1/topics)/.*?"
    r"(/preferences|/preferences/changes|/settings|/quota|/devices|/topics|/subscribers)?\Z",
    re.DOTALL,
)
"""Paths that hold what no log may tell: an id may be an address. Only what follows it and is known is told."""


def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Litestar's guard of every /v1 route: `Authorization: Bearer KEY`."""
    scheme, _space, key = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise NotAuthorizedException("send your API key as `Authorization: Bearer KEY`")
    if not valid(key.strip()):
        raise NotAuthorizedException("this API key is not known, or was revoked")


@get("/", include_in_schema=False)
async def index() -> Redirect:
    return Redirect("/schema")


@get("/healthz", include_in_schema=False)
async def healthz() -> dict[str, str]:
    """Alive; touches nothing."""
    return {"status": "ok"}


@get("/readyz", include_in_schema=False, sync_to_thread=True)
def readyz() -> Response[dict[str, str]]:
    """Able to work: 200, or 503 naming what is not."""
    checks = health.readiness(settings())
    return Response(checks, status_code=200 if set(checks.values()) == {"ok"} else 503)


@get("/metrics", include_in_schema=False, sync_to_thread=True)
def prometheus() -> Response[bytes]:
    return Response(health.metrics(), headers={"content-type": health.METRICS_TYPE})


def refuse(request: Request[Any, Any, State], error: Exception) -> Response[bytes]:
    """Every error as a problem document, and one log line."""
    errors: Sequence[FieldError] = ()
    status, headers = 500, dict[str, str]()
    detail = "this is a bug of ours; it was logged"
    match error:
        case Refused():
            status, detail, errors, headers = error.status_code, error.detail, error.errors, error.headers or {}
        case ValidationException():
            extra = error.extra if isinstance(error.extra, list) else []
            errors = [parameter_error(str(e.get("key", "")), str(e.get("message", ""))) for e in extra]
            told = [f"{e.field}: {e.message}" for e in errors] or ["the request does not fit"]
            status, detail = 422, "; ".join(told if request.method == "GET" else [*told, "nothing was stored"])
        case HTTPException():
            status, detail = error.status_code, error.detail
            headers = {"www-authenticate": "Bearer"} if status == 401 else {}
            if status == 413:
                detail = f"the body is larger than {MAX_BODY_BYTES:,} bytes; nothing was stored"
        case psycopg.OperationalError() | PoolTimeout():
            status, detail = 503, "the database is away; send the same again, with the same id, in a moment"
            headers = {"retry-after": str(RETRY_AFTER)}
        case redis.RedisError():
            status, detail = 503, "Redis, which counts, is away; ask again in a moment"
            headers = {"retry-after": str(RETRY_AFTER)}
        case psycopg.DataError():
            status, detail = 422, "the database refuses this content; nothing was stored"
    path = PERSONAL.sub(r"\1/{id}\2", request.scope["path"])
    line = {"method": request.method, "path": path, "status": status}
    if status == 500:
        log.logger().error("request_failed", **line, exc_info=error)
    else:
        log.logger().warning("request_refused", **line, fields=[e.field for e in errors][:20])
    return Response(problem(status, detail, errors), status_code=status, media_type=MEDIA_TYPE, headers=headers)


def swagger_files() -> Path:
    """Swagger UI comes with a package, so the page needs no network."""
    spec = importlib.util.find_spec("swagger_ui")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package swagger-ui-py is not installed: run `make up`, or pip install -e .")
    return Path(spec.submodule_search_locations[0]) / "static"


def create_app() -> Litestar:
    pool()
    catalog()  # a template that is wrong is said now
    REGISTRY.register(QueueCollector())
    backlog, stop = Backlog(settings().backlog_limit), threading.Event()
    watch = threading.Thread(target=backlog.watch, args=(stop,), name="backlog", daemon=True)
    commits = Commits()
    v1 = Router(
        path="/",
        guards=[guard],
        security=[{"key": []}],
        route_handlers=[
            events.post_events,
            cancellations.delete_event,
            cancellations.post_cancellation,
            topics.put_subscribers,
            topics.delete_subscribers,
            topics.get_topic,
            topics.get_subscribers,
            users.put_user,
            users.get_user,
            topics.get_followed,
            quota.get_quota,
            times.put_times,
            times.get_times,
            devices.put_device,
            devices.get_devices,
            devices.delete_device,
            preferences.put_preferences,
            preferences.get_preferences,
            preferences.get_changes,
            metrics.notification_metrics,
            dead.list_dead,
            dead.show_dead,
            dead.replay_dead,
            dead.discard_dead,
            notifications.get_notification,
            notifications.get_event_timeline,
            feedback.post_feedback,
            feedback.get_suppression,
            feedback.delete_suppression,
        ],
    )
    files = create_static_files_router(path="/swagger", directories=[swagger_files()], include_in_schema=False)
    return Litestar(
        route_handlers=[index, healthz, readyz, prometheus, v1, files],
        state=State({"backlog": backlog, "bodies": Bodies(), "commits": commits}),
        request_max_body_size=MAX_BODY_BYTES,
        exception_handlers={Exception: refuse},
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="Tocsin",
            version="1",
            description="Send events; people are notified.",
            path="/schema",
            use_handler_docstrings=True,
            components=Components(security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}),
            render_plugins=[
                SwaggerRenderPlugin(
                    js_url="/swagger/swagger-ui-bundle.js",
                    css_url="/swagger/swagger-ui.css",
                    standalone_preset_js_url="/swagger/swagger-ui-standalone-preset.js",
                    favicon='<link rel="icon" href="/swagger/favicon-32x32.png">',
                )
            ],
        ),
        on_startup=[watch.start],
        on_shutdown=[stop.set, commits.end, lambda: pool().close()],
    )
