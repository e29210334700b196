"""`DELETE /v1/events/{id}` and `POST /v1/events/cancel`: what was accepted, and is wanted no more."""

import asyncio
from typing import Any
from urllib.parse import unquote

import msgspec
from litestar import Request, delete, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException

from schema.errors import FieldError
from schema.event import EventId, Key
from workers import cancellation
from workers.api.documents import Refused, documented_body, problems, read_document
from workers.cancellation import Cancelled, CancelledEvents
from workers.resources import pool


class Cancellation(msgspec.Struct, forbid_unknown_fields=True):
    """By an event's `id`, or by the `cancel_key` of several; a key with more than 500 events goes on behind
    `after`."""

    id: EventId | None = None
    cancel_key: Key | None = None
    after: str = ""


@delete("/v1/events/{event_id:path}", status_code=200, tags=["events"], responses=problems(401, 404, 503))
async def delete_event(event_id: str, request: Request[Any, Any, State]) -> Cancelled:  # noqa: ARG001
    """Cancel an event. What is sent stays sent, and the answer says what was. Repeating it is safe. The same event
    posted again stays cancelled."""
    written = request.scope["raw_path"].partition(b"/v1/events/")[2]  # the router makes one slash of two
    return await asyncio.to_thread(by_id, unquote(written.partition(b"?")[0].decode("ascii", "replace")))


@post(
    "/v1/events/cancel",
    status_code=200,
    tags=["events"],
    operation_class=documented_body(Cancellation),
    responses=problems(401, 404, 408, 413, 422, 503),
)
async def post_cancellation(request: Request[Any, Any, State]) -> CancelledEvents:
    """Cancel an event by its id, or every event that carries a `cancel_key`: those that were accepted until now. A
    key that nobody used answers no events. What is sent stays sent, and the answer says what was."""
    async with request.app.state.bodies.read(request) as body:
        asked = read_document(body, Cancellation, "nothing was cancelled")
    if (asked.id is None) == (asked.cancel_key is None) or "\0" in asked.after:
        why = "give either `id` or `cancel_key`"
        raise Refused(422, f"{why}; nothing was cancelled", [FieldError("", why)])
    if asked.id is not None:
        return CancelledEvents([await asyncio.to_thread(by_id, asked.id)])
    return await asyncio.to_thread(by_key, asked.cancel_key or "", asked.after)


def by_id(event_id: str) -> Cancelled:
    found = None
    if "\0" not in event_id:
        with pool().connection() as connection:
            found = cancellation.cancel(connection, event_id)
    if found is None:
        raise NotFoundException("no such event: not accepted, waiting in the stream, rejected, or pruned")
    return found


def by_key(key: str, after: str) -> CancelledEvents:
    with pool().connection() as connection:
        return cancellation.cancel_all(connection, key, after)
