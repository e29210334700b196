"""`/v1/dead`: dead letters over HTTP. What they are says workers/dead.py, what to do workers/redrive.py."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import Parameter
from msgspec import Meta
from psycopg import Connection

from schema.errors import FieldError, TocsinError
from schema.fields import field_errors, json_fault
from workers import dead, redrive
from workers.api.documents import Refused, documented_body, problems
from workers.dead import MOST, PAGE, DeadDelivery, DeadMessage, Letter, Which
from workers.redrive import RATE, Decided
from workers.resources import pool

Text = Annotated[str, Meta(max_length=255, pattern="^[^\\x00]*$")]
Word = Annotated[str | None, Parameter(max_length=255, pattern="^[^\\x00]*$")]
Time = Annotated[str | None, Parameter(description="2h, 3d ago, or an instant like 2026-01-31T09:00:00Z")]
Limit = Annotated[int, Parameter(ge=1, le=MOST)]
RETRY_AFTER = 2


class Letters(msgspec.Struct):
    """`next`: what to give as `before` for the rest; null at the end."""

    dead: list[Letter]
    next: str | None


class Chosen(msgspec.Struct, forbid_unknown_fields=True):
    """Either `ids`, up to 500, or `all` that fits the filters given beside it; both is refused, and neither."""

    ids: Annotated[list[Text], Meta(min_length=1, max_length=MOST)] | None = None
    all: bool = False
    channel: Text | None = None
    type: Text | None = None
    reason: Text | None = None
    since: Text | None = None
    until: Text | None = None


class Replay(Chosen, forbid_unknown_fields=True):
    """What `Chosen` says, and how many deliveries become due in a second."""

    rate: Annotated[float, Meta(ge=0.01, le=100_000)] = RATE


C = TypeVar("C", bound=Chosen)


@get("/v1/dead", tags=["dead letters"], sync_to_thread=True, responses=problems(401, 422))
def list_dead(
    channel: Word = None,
    type: Word = None,
    reason: Word = None,
    since: Time = None,
    until: Time = None,
    before: Word = None,
    limit: Limit = PAGE,
) -> Letters:
    """What nothing tries any more, newest first: deliveries (d-…) and messages (m-…)."""
    with refusing(), pool().connection() as connection:
        which = fitting(Chosen(None, True, channel, type, reason, since, until))
        return Letters(*dead.letters(connection, which, limit, before))


@get("/v1/dead/{letter:str}", tags=["dead letters"], sync_to_thread=True, responses=problems(401, 404, 422))
def show_dead(letter: str) -> DeadDelivery | DeadMessage:
    """One letter, also when it is dead no more: its tries with the provider's words, or its message and trace."""
    with refusing("id"), pool().connection() as connection:
        found = dead.letter(connection, letter)
    if found is None:
        raise NotFoundException("no such dead letter: see GET /v1/dead")
    return found


@post(
    "/v1/dead/replay",
    status_code=200,
    tags=["dead letters"],
    operation_class=documented_body(Replay),
    responses=problems(401, 408, 413, 422, 503),
)
async def replay_dead(request: Request[Any, Any, State]) -> Decided:
    """Try them again. Deliveries become due one after the other, `rate` a second; answered at once, with how many
    this call replayed itself, and why others stayed. Safe to repeat, and for several at once."""
    return await decide(request, Replay, lambda db, which, body: redrive.replay(db, which, body.rate))


@post(
    "/v1/dead/discard",
    status_code=200,
    tags=["dead letters"],
    operation_class=documented_body(Chosen),
    responses=problems(401, 408, 413, 422, 503),
)
async def discard_dead(request: Request[Any, Any, State]) -> Decided:
    """Give them up for good: deliveries become failed (discarded). Safe to repeat, and for several at once."""
    return await decide(request, Chosen, lambda db, which, _: redrive.discard(db, which))


async def decide(
    request: Request[Any, Any, State], kind: type[C], decision: Callable[[Connection, Which, C], Decided]
) -> Decided:
    async with request.app.state.bodies.read(request) as raw:
        body, which = read(raw, kind)

    def work() -> Decided:
        with refusing("ids"), pool().connection() as connection:
            return decision(connection, which, body)

    return await asyncio.to_thread(work)


def read(raw: bytes, kind: type[C]) -> tuple[C, Which]:
    """Raises Refused naming every field that is wrong."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = json_fault(raw, error)
        raise Refused(422, f"the body {why}; nothing was done", [FieldError("", why)]) from None
    errors = field_errors(document, kind)
    if not errors:
        body = msgspec.convert(document, kind)
        which = fitting(body)
        if bool(body.ids) != body.all and (body.all or which == Which(ids=which.ids)):
            return body, which
        errors = [FieldError("ids", "give either ids, or all: true with filters, if you like")]
    first = f"{errors[0].field}: {errors[0].message}" if errors[0].field else f"the body {errors[0].message}"
    raise Refused(422, f"{first}; nothing was done", errors)


def fitting(given: Chosen) -> Which:
    """Raises Refused for what is no time."""
    times = {}
    for name in ("since", "until"):
        text: str | None = getattr(given, name)
        try:
            times[name] = dead.instant(text) if text else None
        except TocsinError as error:
            raise Refused(422, f"{name}: {error}", [FieldError(name, str(error))]) from None
    ids = tuple(given.ids) if given.ids else None
    return Which(ids=ids, channel=given.channel, type=given.type, reason=given.reason, **times)


@contextmanager
def refusing(field: str = "before") -> Iterator[None]:
    """What is no id, or no place in the list, as a problem; and a Redis that went away."""
    try:
        yield
    except redrive.Interrupted as error:
        raise Refused(503, str(error), retry_after=RETRY_AFTER) from None
    except TocsinError as error:
        raise Refused(422, str(error), [FieldError(field, str(error))]) from None
