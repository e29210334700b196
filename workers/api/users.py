"""`PUT /v1/users/{id}`: what is known of a recipient, and `GET` of the same."""

import asyncio
import re
import zoneinfo
from typing import Annotated, Any

import msgspec
from litestar import Request, get, put
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import Parameter
from msgspec import UNSET, UnsetType

from schema.errors import FieldError
from schema.fields import field_errors, json_fault
from workers import quiet
from workers.api.documents import Refused, documented_body, problems
from workers.resources import pool

_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|\d{3}))?")
_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f,;<>]+@[^@\s\x00-\x1f\x7f,;<>.]+(\.[^@\s\x00-\x1f\x7f,;<>.]+)+")
_UPSERT = """
INSERT INTO users AS u (id, email, locale, time_zone) VALUES (%(id)s, %(email)s, %(locale)s, %(time_zone)s)
ON CONFLICT (id) DO UPDATE SET updated_at = now(),
    email = CASE WHEN %(has_email)s THEN excluded.email ELSE u.email END,
    locale = CASE WHEN %(has_locale)s THEN excluded.locale ELSE u.locale END,
    time_zone = CASE WHEN %(has_time_zone)s THEN excluded.time_zone ELSE u.time_zone END
RETURNING id, email, locale, time_zone, quiet_from IS NOT NULL AND time_zone IS NULL
"""

UserId = Annotated[str, Parameter(min_length=1, max_length=128)]


class UserUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """What to set; what is left out stays, null clears."""

    email: str | UnsetType | None = UNSET
    locale: str | UnsetType | None = UNSET
    time_zone: str | UnsetType | None = UNSET


class User(msgspec.Struct):
    id: str
    email: str | None
    locale: str | None
    time_zone: str | None


def wrong(update: UserUpdate) -> list[FieldError]:
    errors = []
    if isinstance(update.email, str) and (len(update.email) > 254 or not _EMAIL.fullmatch(update.email)):
        errors.append(FieldError("email", "must be one address, like ada@example.org"))
    if isinstance(update.locale, str) and not _LOCALE.fullmatch(update.locale):
        errors.append(FieldError("locale", "must be a BCP 47 tag, like de or pt-BR"))
    if isinstance(update.time_zone, str) and update.time_zone not in zoneinfo.available_timezones():
        errors.append(FieldError("time_zone", "must be an IANA name, like Europe/Vienna"))
    return errors


def read_update(body: bytes) -> UserUpdate:
    """Raises Refused naming every field that is wrong."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = json_fault(body, error)
        raise Refused(422, f"the body {why}; nothing was stored", [FieldError("", why)]) from None
    errors = field_errors(document, UserUpdate) or wrong(msgspec.convert(document, UserUpdate))
    if errors:
        first = f"{errors[0].field}: {errors[0].message}" if errors[0].field else f"the body {errors[0].message}"
        raise Refused(422, f"{first}; nothing was stored", errors)
    return msgspec.convert(document, UserUpdate)


@put(
    "/v1/users/{user_id:str}",
    tags=["users"],
    operation_class=documented_body(UserUpdate),
    responses=problems(401, 408, 413, 422, 503),
)
async def put_user(user_id: UserId, request: Request[Any, Any, State]) -> User:
    """Set a user's email, locale and time zone. An unknown user is made; repeating changes nothing."""
    async with request.app.state.bodies.read(request) as body:
        update = read_update(body)
    if not user_id.isprintable():
        raise Refused(422, "the id must not contain control characters; nothing was stored", [])
    return await asyncio.to_thread(store, user_id, update)


def store(user_id: str, update: UserUpdate) -> User:
    values: dict[str, object] = {"id": user_id}
    for name in ("email", "locale", "time_zone"):
        given = getattr(update, name)
        values |= {name: None if given is UNSET else given, f"has_{name}": given is not UNSET}
    with pool().connection() as connection, connection.transaction():
        row = connection.execute(_UPSERT, values).fetchone()
        connection.execute("INSERT INTO inboxes (user_id) VALUES (%s) ON CONFLICT DO NOTHING", (user_id,))
        *known, hours_without_zone = row or (user_id, None, None, None, False)
        if hours_without_zone:
            why = "is needed for the user's quiet hours: set another, or end them first"
            raise Refused(422, f"time_zone: {why}; nothing was stored", [FieldError("time_zone", why)])
        if update.time_zone is not UNSET:
            quiet.release(connection, user_id)
    return User(*known)


@get("/v1/users/{user_id:str}", tags=["users"], sync_to_thread=True, responses=problems(401, 404))
def get_user(user_id: UserId) -> User:
    """What is known of a user."""
    if not user_id.isprintable():
        raise NotFoundException("no such user: an id has no control characters")
    with pool().connection() as connection:
        query = "SELECT id, email, locale, time_zone FROM users WHERE id = %s"
        row = connection.execute(query, (user_id,)).fetchone()
    if row is None:
        raise NotFoundException("no such user: nothing was ever sent to it, and PUT made none")
    return User(*row)
