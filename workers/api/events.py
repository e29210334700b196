"""`POST /v1/events`: the HTTP door."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from prometheus_client import Counter

from pipelines import accept
from pipelines.accept import Arrival, Verdict
from schema.errors import FieldError, InvalidEvent
from schema.event import MAX_EVENTS, Event
from schema.fields import json_fault, not_known
from workers.api.documents import Refused, busy, documented_body, problems
from workers.dry_run import DryRun, foresee
from workers.resources import catalog, resources

ACCEPTED = Counter("tocsin_events_accepted_total", "Events answered 202, new ones and repeats", ["status"])

BACKLOG_RETRY_AFTER = 5
"""Seconds until a caller is to try again: about the time between two looks at a long backlog."""

Dry = Annotated[bool, Parameter(description="tell what would happen, and do nothing")]

_calls = msgspec.json.Decoder(list[msgspec.Raw])


class EventStatus(msgspec.Struct):
    """`accepted`: stored now. `duplicate`: the same event was stored before; nothing was done."""

    id: str
    status: str


class EventsAccepted(msgspec.Struct):
    events: list[EventStatus]


@post(
    "/v1/events",
    status_code=202,
    operation_class=documented_body(Event, MAX_EVENTS),
    tags=["events"],
    responses=problems(401, 408, 409, 413, 422, 503)
    | {200: ResponseSpec(DryRun, generate_examples=False, description="the dry run; nothing was stored")},
)
async def post_events(
    request: Request[Any, Any, State], dry_run: Dry = False
) -> Response[EventsAccepted] | Response[DryRun]:
    """Enqueue one event, or an array of up to 500. Answered after the commit: a 202 survives any crash.
    The same id with the same body is a duplicate and does nothing; with another body it is a 409. A call is
    stored whole or not at all. With `dry_run=true` nothing is stored, sent or counted: the answer says who would
    be told what on which channel, when, and why not."""
    refuse_unknown(request.query_params)
    state = request.app.state
    if dry_run:
        async with state.bodies.read(request) as body:
            told = await asyncio.to_thread(tell, read_call(body))
        return Response(told, status_code=200)
    if state.backlog.full:
        raise busy(f"more than {state.backlog.limit:,} accepted events wait to be worked off", BACKLOG_RETRY_AFTER)
    async with state.bodies.read(request) as body:
        arrivals = read_call(body)
        verdict = await state.commits.store(arrivals)
    refuse_clashes(arrivals, verdict)
    for status in verdict.statuses:
        ACCEPTED.labels(status).inc()
    ids = (arrival.event.id or "" for arrival in arrivals)
    return Response(EventsAccepted([EventStatus(id_, s) for id_, s in zip(ids, verdict.statuses, strict=True)]))


def refuse_unknown(parameters: Iterable[str]) -> None:
    """A misspelt dry run must not be sent for real. Raises Refused."""
    if wrong := [not_known(name, ["dry_run"], "parameter") for name in parameters if name != "dry_run"]:
        raise Refused(422, f"{wrong[0].field}: {wrong[0].message}; nothing was stored", wrong)


def tell(arrivals: Sequence[Arrival]) -> DryRun:
    """Raises Refused as the door would, and for too many recipients."""
    try:
        verdict, told = foresee(arrivals, resources())
    except InvalidEvent as error:
        raise Refused(422, f"{error}; nothing was stored", error.errors) from None
    refuse_clashes(arrivals, verdict)
    return told


def refuse_clashes(arrivals: Sequence[Arrival], verdict: Verdict) -> None:
    if not verdict.conflicts:
        return
    errors = []
    for place in verdict.conflicts:
        clash = FieldError("id", f"{arrivals[place].event.id!r} was used before with another body")
        errors.append(clash.below(f"events[{place}]") if len(arrivals) > 1 else clash)
    raise Refused(409, "an id was used before with another body; nothing was stored", errors)


def read_call(body: bytes) -> list[Arrival]:
    """The events of a body. Raises Refused naming every field of every event that is wrong."""
    many = body.lstrip()[:1] == b"["
    try:
        raws = [bytes(raw) for raw in _calls.decode(body)] if many else [body]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = json_fault(body, error)
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
