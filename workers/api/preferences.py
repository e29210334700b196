"""`/v1/users/{id}/preferences`: what a user wants, as a backend service knows it, and who changed it when
(workers/wishes.py)."""

import asyncio
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, get, put
from litestar.datastructures import State
from litestar.params import Parameter

from pipelines.choices import Wanted, change
from pipelines.preferences import Kept, Wish
from schema.errors import FieldError
from schema.fields import json_fault
from workers import wishes
from workers.api.documents import Refused, documented_body, problems
from workers.api.users import UserId
from workers.resources import catalog, pool

PATH = "/v1/users/{user_id:str}/preferences"
MOST, PAGE = 500, 100
"""Changes in one answer."""
_CHANGES = """
SELECT id, created_at, changed_by, scope, name, setting, before, after FROM preference_changes
WHERE user_id = %s AND (%s::bigint IS NULL OR id < %s) ORDER BY id DESC LIMIT %s
"""

Before = Annotated[int | None, Parameter(ge=1, le=2**63 - 1, description="older than this one: what `next` said")]
Limit = Annotated[int, Parameter(ge=1, le=MOST)]


class Change(msgspec.Struct):
    """One setting that changed. `by`: user, service, unsubscribe (the link of an email) or complaint; `scope`:
    type, category, global or opt_out; `setting`: enabled, or the channel; null: nothing was said, or is any more.
    """

    id: int
    at: datetime
    by: str
    scope: str
    name: str
    setting: str
    before: Wish | None
    after: Wish | None


class Changes(msgspec.Struct):
    """The newest first; `next` is the `before` of the next page."""

    changes: list[Change]
    next: int | None


@put(
    PATH,
    tags=["preferences"],
    operation_class=documented_body(Wanted),
    responses=problems(401, 408, 413, 422, 503),
)
async def put_preferences(user_id: UserId, request: Request[Any, Any, State]) -> wishes.View:
    """Say what a user wants; what is left out stays, null takes a word back. An unknown user is made. A channel
    that is switched on ends an unsubscription from it; whoever calls this is sure that the user said so."""
    async with request.app.state.bodies.read(request) as body:
        wanted = read_wanted(body)
    if not user_id.isprintable():
        raise Refused(422, "the id must not contain control characters; nothing was stored")
    return await asyncio.to_thread(store, user_id, wanted)


def read_wanted(body: bytes) -> Wanted:
    """Raises Refused naming every field that is wrong."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = json_fault(body, error)
        raise Refused(422, f"the body {why}; nothing was stored", [FieldError("", why)]) from None
    wanted, errors = wishes.read(document, Wanted, catalog().types)
    if errors:
        first = f"{errors[0].field}: {errors[0].message}" if errors[0].field else f"the body {errors[0].message}"
        raise Refused(422, f"{first}; nothing was stored", errors)
    return wanted


def store(user_id: str, wanted: Wanted) -> wishes.View:
    who = {"user": user_id}
    with pool().connection() as connection, connection.transaction():
        connection.execute(wishes.PERSON, who)
        connection.execute(wishes.LOCK, who)
        before = wishes.kept(connection.execute(wishes.READ, who).fetchall())
        after = change(before, wanted, catalog().types)
        if row := wishes.values(user_id, "service", before, after):
            connection.execute(wishes.WRITE, row)
    return shown(after)


def shown(kept: Kept) -> wishes.View:
    return wishes.View(**wishes.view(kept, catalog().types))


@get(PATH, tags=["preferences"], sync_to_thread=True, responses=problems(401))
def get_preferences(user_id: UserId) -> wishes.View:
    """What a user wants; the types' defaults for a user nobody knows."""
    if not user_id.isprintable():
        return shown({})
    with pool().connection() as connection:
        return shown(wishes.kept(connection.execute(wishes.READ, {"user": user_id}).fetchall()))


@get(f"{PATH}/changes", tags=["preferences"], sync_to_thread=True, responses=problems(401, 422))
def get_changes(user_id: UserId, before: Before = None, limit: Limit = PAGE) -> Changes:
    """Who changed what, and when."""
    if not user_id.isprintable():
        return Changes([], None)
    with pool().connection() as connection:
        rows = connection.execute(_CHANGES, (user_id, before, before, limit + 1)).fetchall()
    changes = [Change(*row) for row in rows[:limit]]
    return Changes(changes, changes[-1].id if len(rows) > limit else None)
