"""Refused: an answer other than 2xx, raised where it is decided and rendered as problem details (RFC 9457)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import psycopg
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from schema.errors import FieldError
from workers import log
from workers.problems import MEDIA_TYPE, problem

T = TypeVar("T")

BASIC_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
RETRY_AFTER = {"retry-after": "2"}
"""Sent with 503: seconds a caller is asked to wait when Postgres or Redis is away."""

_SECRET = re.compile(r"^(/unsubscribe/)[^/]+")
"""Whoever has such an address may do what it says: it is in no log."""
_PLACE = re.compile(r"(?P<message>.*?)(?: - at `(?:key in )?\$(?P<path>[^`]*)`)?", re.DOTALL)


class Refused(Exception):
    """`detail` is for the person who sent the request: nothing secret, nothing of somebody else's. `extra` are
    further members of the problem document."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors
        self.headers, self.extra = headers or {}, dict(extra or {})


def unknown() -> Refused:
    """One answer for what does not exist and for what is somebody else's: no one learns which."""
    return Refused(404, "no such notification")


def fitting(value: object, kind: type[T], *, strict: bool = True) -> T:
    """`value` as a `kind`; raises Refused (422) naming the field that does not fit. Not strict: texts are read
    as numbers and booleans, as a query string has them."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        found = _PLACE.fullmatch(str(error))
        place = (found["path"] or "").lstrip(".") if found else ""
        message = found["message"] if found else str(error)
        raise does_not_fit([FieldError(place, message)]) from None


def does_not_fit(errors: Sequence[FieldError]) -> Refused:
    return Refused(422, "the request does not fit: see errors", errors)


def answer(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type="application/json",
        headers={**BASIC_HEADERS, **(headers or {})},
    )


async def refuse(request: Request, error: Exception) -> Response:
    """Any error as a problem document."""
    refused = _refused(request, error)
    path = _SECRET.sub(r"\1…", request.url.path)
    if refused.status == 503:
        log.logger().warning("request_refused", path=path, detail=refused.detail)
    elif refused.status >= 500:
        log.logger().error("request_failed", path=path, exc_info=error)
    body = msgspec.json.decode(problem(refused.status, refused.detail, refused.errors)) | refused.extra
    return Response(
        msgspec.json.encode(body),
        status_code=refused.status,
        media_type=MEDIA_TYPE,
        headers={**BASIC_HEADERS, **refused.headers},
    )


def _refused(request: Request, error: Exception) -> Refused:
    match error:
        case Refused():
            return error
        case HTTPException():
            return Refused(error.status_code, f"{request.method} {request.url.path}", headers=error.headers)
        case psycopg.OperationalError():
            return Refused(503, "the database is away; try again in a moment", headers=RETRY_AFTER)
        case RedisError():
            return Refused(503, "Redis is away; try again in a moment", headers=RETRY_AFTER)
    return Refused(500, "this is a bug of ours; it was logged")
