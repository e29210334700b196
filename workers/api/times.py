"""`/v1/users/{id}/settings`: a user's zone, quiet hours and when digests come (workers/times.py)."""

import asyncio
from typing import Any

import msgspec
from litestar import Request, get, put
from litestar.datastructures import State

from schema.errors import FieldError
from schema.fields import json_fault
from workers import quiet, times
from workers.api.documents import Refused, documented_body, problems
from workers.api.users import UserId
from workers.resources import pool
from workers.times import NOBODY, Kept, Times

PATH = "/v1/users/{user_id:str}/settings"


@put(PATH, tags=["users"], operation_class=documented_body(Times), responses=problems(401, 408, 413, 422, 503))
async def put_times(user_id: UserId, request: Request[Any, Any, State]) -> Times:
    """Set a user's zone, quiet hours, and when digests come. An unknown user is made; repeating changes
    nothing."""
    async with request.app.state.bodies.read(request) as body:
        wanted = read_times(body)
    if not user_id.isprintable():
        raise Refused(422, "the id must not contain control characters; nothing was stored")
    return await asyncio.to_thread(store, user_id, wanted)


def read_times(body: bytes) -> Times:
    """Raises Refused naming every field that is wrong."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = json_fault(body, error)
        raise Refused(422, f"the body {why}; nothing was stored", [FieldError("", why)]) from None
    wanted, errors = times.read(document)
    refuse(errors)
    return wanted


def refuse(errors: list[FieldError]) -> None:
    if errors:
        first = f"{errors[0].field}: {errors[0].message}" if errors[0].field else f"the body {errors[0].message}"
        raise Refused(422, f"{first}; nothing was stored", errors)


def store(user_id: str, wanted: Times) -> Times:
    """Raises Refused: nobody knows the zone."""
    with pool().connection() as connection, connection.transaction():
        row = connection.execute(times.WRITE, times.values(user_id, wanted)).fetchone()
        kept = Kept(*row) if row else NOBODY
        refuse(times.without_zone(kept))
        if kept.moved:
            quiet.release(connection, user_id)
    return times.shown(kept)


@get(PATH, tags=["users"], sync_to_thread=True, responses=problems(401, 422))
def get_times(user_id: UserId) -> Times:
    """A user's zone, quiet hours, and when digests come; nothing but the defaults for a user nobody knows."""
    if not user_id.isprintable():
        return times.shown(NOBODY)
    with pool().connection() as connection:
        row = connection.execute(times.READ, {"user": user_id}).fetchone()
    return times.shown(Kept(*row) if row else NOBODY)
