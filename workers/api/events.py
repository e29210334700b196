"""`POST /v1/events`: the HTTP door."""

from typing import Any

import msgspec
from litestar import Request, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from prometheus_client import Counter

from pipelines import accept
from pipelines.accept import Arrival
from schema.errors import FieldError, InvalidEvent
from schema.event import MAX_EVENTS, Event
from workers.resources import catalog

ACCEPTED = Counter("tocsin_events_accepted_total", "Events answered 202, new ones and repeats", ["status"])
REFUSED = Counter("tocsin_events_refused_total", "Calls refused at the HTTP door", ["status"])

_calls = msgspec.json.Decoder(list[msgspec.Raw])


class Refused(HTTPException):
    """A call that stored nothing; `errors` names what was wrong with it."""

    def __init__(self, status: int, detail: str, errors: list[FieldError]) -> None:
        REFUSED.labels(status).inc()
        super().__init__(detail=detail, status_code=status)
        self.errors = errors


class EventStatus(msgspec.Struct):
    """`accepted`: stored now. `duplicate`: the same event was stored before; nothing was done."""

    id: str
    status: str


class EventsAccepted(msgspec.Struct):
    events: list[EventStatus]


class _Documented(Operation):
    """The handler reads the body's bytes itself; this tells OpenAPI what they are."""

    def __post_init__(self) -> None:
        event = Schema(**_openapi(msgspec.json.schema(Event)["$defs"]["Event"]))
        either = Schema(one_of=[event, Schema(type="array", items=event, max_items=MAX_EVENTS)])  # type: ignore[arg-type]
        self.request_body = RequestBody(
            content={"application/json": OpenAPIMediaType(schema=either)}, required=True
        )


def _openapi(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": schema["type"], "properties": schema["properties"], "required": schema["required"]}


@post("/v1/events", status_code=202, operation_class=_Documented, tags=["events"])
async def post_events(request: Request[Any, Any, State]) -> EventsAccepted:
    """Enqueue one event, or an array of up to 500. Answered after the commit: a 202 survives any crash.
    The same id with the same body is a duplicate and does nothing; with another body it is a 409. A call is
    stored whole or not at all."""
    arrivals = read_call(await request.body())
    verdict = await request.app.state.commits.store(arrivals)
    if verdict.conflicts:
        errors = [FieldError("id", f"{id_!r} was used before with another body") for id_ in verdict.conflicts]
        raise Refused(409, "an id was used before with another body; nothing was stored", errors)
    for status in verdict.statuses:
        ACCEPTED.labels(status).inc()
    ids = (arrival.event.id or "" for arrival in arrivals)
    return EventsAccepted([EventStatus(id_, s) for id_, s in zip(ids, verdict.statuses, strict=True)])


def read_call(body: bytes) -> list[Arrival]:
    """The events of a body. Raises Refused naming every field of every event that is wrong."""
    many = body.lstrip()[:1] == b"["
    try:
        raws = [bytes(raw) for raw in _calls.decode(body)] if many else [body]
    except (msgspec.DecodeError, RecursionError) as error:
        why = "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"
        raise Refused(422, f"the body {why}; nothing was stored", [FieldError("", why)]) from None
    if not 1 <= len(raws) <= MAX_EVENTS:
        why = f"holds {len(raws):,} events; a call takes 1 to {MAX_EVENTS}"
        raise Refused(422, f"the body {why}; nothing was stored", [FieldError("", why)])
    arrivals, errors = [], []
    for index, raw in enumerate(raws):
        try:
            arrivals.append(accept.read(raw, catalog()))
        except InvalidEvent as error:
            errors += [e.below(f"events[{index}]") if many else e for e in error.errors]
    if errors:
        first = f"{errors[0].field}: {errors[0].message}" if errors[0].field else f"the event {errors[0].message}"
        raise Refused(422, f"{first}; nothing was stored", errors)
    return arrivals
