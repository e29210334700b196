"""`GET /v1/notifications/{id}` and `GET /v1/notifications?event=…`: what became of them."""

from typing import Annotated
from uuid import UUID

from litestar import get
from litestar.exceptions import NotFoundException
from litestar.params import Parameter

from workers import timeline
from workers.api.documents import problems
from workers.resources import pool
from workers.timeline import MOST, PAGE, EventTimeline, NotificationTimeline

EventId = Annotated[str, Parameter(min_length=1, max_length=255, pattern="^[^\\x00]*$")]
User = Annotated[str | None, Parameter(max_length=128, pattern="^[^\\x00]*$", description="only this recipient")]
Skip = Annotated[int, Parameter(ge=0, le=2**31 - 1, description="recipients to leave out: what `next` said")]
Limit = Annotated[int, Parameter(ge=1, le=MOST)]


@get("/v1/notifications/{id:str}", tags=["timeline"], sync_to_thread=True, responses=problems(401, 404))
def get_notification(id: str) -> NotificationTimeline:
    """What became of one notification: every delivery with every try, its reason and the provider's words."""
    try:
        notification = UUID(id)
    except ValueError:
        raise NotFoundException("no such notification: its id is a UUID") from None
    with pool().connection() as connection:
        found = timeline.of_notification(connection, notification)
    if found is None:
        raise NotFoundException("no such notification: not written yet, erased, or pruned")
    return found


@get("/v1/notifications", tags=["timeline"], sync_to_thread=True, responses=problems(401, 404, 422))
def get_event_timeline(event: EventId, user: User = None, skip: Skip = 0, limit: Limit = PAGE) -> EventTimeline:
    """What became of an event: its state, and the notifications of its recipients, a page at a time. An event that
    waits, was not routed yet, or was rejected says so in `state` and `says`."""
    with pool().connection() as connection:
        found = timeline.of_event(connection, event, user, skip, limit)
    if found is None:
        raise NotFoundException("no such event: not accepted, waiting in the stream, or pruned")
    return found
