"""`PUT /v1/users/{id}`: what is known of a recipient, and `GET` of the same."""

import re
import zoneinfo
from typing import Annotated

import msgspec
from litestar import get, put
from litestar.exceptions import NotFoundException
from litestar.params import Parameter
from msgspec import UNSET, UnsetType

from schema.errors import FieldError
from workers.api.events import Refused
from workers.resources import pool

_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|\d{3}))?")
_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f,;<>]+@[^@\s\x00-\x1f\x7f,;<>.]+(\.[^@\s\x00-\x1f\x7f,;<>.]+)+")
_UPSERT = """
INSERT INTO users AS u (id, email, locale, time_zone) VALUES (%(id)s, %(email)s, %(locale)s, %(time_zone)s)
ON CONFLICT (id) DO UPDATE SET updated_at = now(),
    email = CASE WHEN %(has_email)s THEN excluded.email ELSE u.email END,
    locale = CASE WHEN %(has_locale)s THEN excluded.locale ELSE u.locale END,
    time_zone = CASE WHEN %(has_time_zone)s THEN excluded.time_zone ELSE u.time_zone END
RETURNING id, email, locale, time_zone
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
    if update.email and (len(update.email) > 254 or not _EMAIL.fullmatch(update.email)):
        errors.append(FieldError("email", "must be one address, like ada@example.org"))
    if update.locale and not _LOCALE.fullmatch(update.locale):
        errors.append(FieldError("locale", "must be a BCP 47 tag, like de or pt-BR"))
    if update.time_zone and update.time_zone not in zoneinfo.available_timezones():
        errors.append(FieldError("time_zone", "must be an IANA name, like Europe/Vienna"))
    return errors


@put("/v1/users/{user_id:str}", tags=["users"], sync_to_thread=True)
def put_user(user_id: UserId, data: UserUpdate) -> User:
    """Set a user's email, locale and time zone. An unknown user is made; repeating changes nothing."""
    errors = wrong(data)
    if not user_id.isprintable():
        errors.append(FieldError("id", "must not contain control characters"))
    if errors:
        raise Refused(422, f"{errors[0].field} {errors[0].message}; nothing was stored", errors)
    values: dict[str, object] = {"id": user_id}
    for name in ("email", "locale", "time_zone"):
        given = getattr(data, name)
        values |= {name: None if given is UNSET else given, f"has_{name}": given is not UNSET}
    with pool().connection() as connection:
        row = connection.execute(_UPSERT, values).fetchone()
        connection.execute("INSERT INTO inboxes (user_id) VALUES (%s) ON CONFLICT DO NOTHING", (user_id,))
    return User(*row) if row else User(user_id, None, None, None)


@get("/v1/users/{user_id:str}", tags=["users"], sync_to_thread=True)
def get_user(user_id: UserId) -> User:
    """What is known of a user."""
    with pool().connection() as connection:
        query = "SELECT id, email, locale, time_zone FROM users WHERE id = %s"
        row = connection.execute(query, (user_id,)).fetchone()
    if row is None:
        raise NotFoundException("no such user: nothing was ever sent to it, and PUT made none")
    return User(*row)
