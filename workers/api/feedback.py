"""`POST /v1/email/feedback`: what became of an email after the mail server took it, as a provider tells it; and
the addresses that get no email any more, because of it.

The end is the same in any order and with any repeats: an id counts once, a delivery only ever goes from sent to
failed, and of several reasons to suppress an address a complaint stays.
"""

import asyncio
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import Request, delete, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from msgspec import Meta
from prometheus_client import Counter

from pipelines.arrays import array
from schema.errors import FieldError
from schema.event import Instant
from schema.fields import field_errors, json_fault
from workers.api.documents import Refused, documented_body, problems
from workers.resources import pool

FEEDBACK = Counter("tocsin_email_feedback_total", "Feedback on emails, by kind and status", ["kind", "status"])
MOST = 500
"""Feedback in one call."""
SUPPRESSION = "/v1/email/suppressions/{address:path}"
"""`path`, because an address may hold a slash."""
SAID = 500
"""Characters kept of a provider's words."""
_ADDRESS = re.compile(r"[^@\s\x00-\x1f\x7f,;<>]+@[^@\s\x00-\x1f\x7f,;<>]+")
_MESSAGE_ID = re.compile(r"<?([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})@[^@\s<>]+>?")

_RECORD = """
WITH given AS (
    SELECT * FROM unnest(%(id)s::text[], %(kind)s::text[], %(delivery)s::uuid[], %(address)s::text[],
        %(permanent)s::bool[], %(said)s::text[], %(at)s::timestamptz[])
        AS g (id, kind, delivery, address, permanent, said, at)
), found AS (
    SELECT g.id, g.kind, g.permanent, g.said, g.at, d.id AS delivery, d.user_id, n.category,
        lower(coalesce(g.address, u.email)) AS address
    FROM given g
    LEFT JOIN deliveries d ON d.id = g.delivery AND d.channel = 'email'
    LEFT JOIN notifications n ON n.id = d.notification_id
    LEFT JOIN users u ON u.id = d.user_id
    WHERE d.id IS NOT NULL OR g.address IS NOT NULL
), new AS ( -- here, and below, in one order, so that calls never wait for each other in a circle
    INSERT INTO email_feedback (id, kind, delivery_id) SELECT id, kind, delivery FROM found ORDER BY id
    ON CONFLICT DO NOTHING RETURNING id
), fresh AS (
    SELECT f.* FROM found f JOIN new USING (id)
), bounced AS (
    SELECT DISTINCT ON (delivery) delivery, said, at FROM fresh
    WHERE kind = 'bounce' AND permanent AND delivery IS NOT NULL ORDER BY delivery, at
), locked AS (
    SELECT id FROM deliveries WHERE id IN (SELECT delivery FROM bounced) ORDER BY id FOR UPDATE
), failed AS ( -- the bounce may be here before our own worker wrote down that it had sent
    UPDATE deliveries d SET state = 'failed', reason = 'bounced', settled_at = least(coalesce(b.at, now()), now())
    FROM bounced b JOIN locked ON locked.id = b.delivery
    WHERE d.id = b.delivery AND d.state IN ('sent', 'sending', 'retrying')
    RETURNING d.id, d.attempt, b.said
), told AS (
    UPDATE attempts a SET said = f.said FROM failed f
    WHERE a.delivery_id = f.id AND a.number = f.attempt AND f.said <> ''
), suppressed AS (
    INSERT INTO suppressed_addresses AS kept (address, reason)
    SELECT address, CASE WHEN bool_or(kind = 'complaint') THEN 'complaint' ELSE 'bounce' END FROM fresh
    WHERE address IS NOT NULL AND (kind = 'complaint' OR kind = 'bounce' AND permanent) GROUP BY 1 ORDER BY 1
    ON CONFLICT (address) DO UPDATE SET reason = excluded.reason WHERE excluded.reason = 'complaint'
), opted_out AS (
    INSERT INTO opt_outs (user_id, channel, category)
    SELECT u.id, 'email', f.category FROM fresh f JOIN users u ON u.id = f.user_id
    WHERE f.kind = 'complaint' AND f.category IS NOT NULL ORDER BY 1, 3 FOR KEY SHARE OF u
    ON CONFLICT DO NOTHING RETURNING user_id, category
), noted AS (
    INSERT INTO preference_changes (user_id, changed_by, scope, name, setting, after)
    SELECT user_id, 'complaint', 'opt_out', category, 'email', 'true' FROM opted_out
)
SELECT f.id, n.id IS NOT NULL FROM found f LEFT JOIN new n USING (id)
"""


class Feedback(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """id          the provider's own id of this feedback: the same twice counts once
    kind        what happened
    message_id  of the mail, as we sent it; it or the address is required
    address     to whom it was sent; without it, the address that the user has now
    permanent   of a bounce: nobody is there, and never will be
    said        the receiving server's words
    at          when it happened
    """

    id: Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
    kind: Literal["delivered", "bounce", "complaint"]
    message_id: Annotated[str, Meta(max_length=998)] | None = None
    address: Annotated[str, Meta(max_length=254)] | None = None
    permanent: bool = False
    said: str | None = None
    at: Instant | None = None

    @property
    def delivery(self) -> UUID | None:
        """Of the mail, when it may be ours: its Message-ID begins with its delivery's id."""
        found = _MESSAGE_ID.fullmatch((self.message_id or "").strip())
        return UUID(found[1]) if found else None


class FeedbackStatus(msgspec.Struct):
    """`recorded`: counts now. `duplicate`: was recorded before. `unknown`: of no email of ours, and dropped."""

    id: str
    status: str


class FeedbackTaken(msgspec.Struct):
    feedback: list[FeedbackStatus]


class Suppression(msgspec.Struct):
    """An address that gets no email. `reason`: mailbox_unknown, bounce or complaint."""

    address: str
    reason: str
    since: datetime


@post(
    "/v1/email/feedback",
    status_code=200,
    operation_class=documented_body(Feedback, MOST),
    tags=["email"],
    responses=problems(401, 408, 413, 422, 503),
)
async def post_feedback(request: Request[Any, Any, State]) -> FeedbackTaken:
    """Tell of one email, or of up to 500: delivered, bounced, complained about. A permanent bounce fails the
    delivery and suppresses the address. A complaint suppresses it too, and unsubscribes the user from the
    category. Whatever else is recorded only. The same id counts once; a call is taken whole or not at all."""
    async with request.app.state.bodies.read(request) as body:
        given = read_call(body)
    statuses = await asyncio.to_thread(record, given)
    for one, status in zip(given, statuses, strict=True):
        FEEDBACK.labels(one.kind, status).inc()
    return FeedbackTaken([FeedbackStatus(one.id, status) for one, status in zip(given, statuses, strict=True)])


def read_call(body: bytes) -> list[Feedback]:
    """The feedback of a body. Raises Refused naming every field of every one that is wrong."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refused([FieldError("", json_fault(body, error))]) from None
    documents = document if isinstance(document, list) else [document]
    if not 1 <= len(documents) <= MOST:
        raise _refused([FieldError("", f"holds {len(documents):,} of feedback; a call takes 1 to {MOST}")])
    errors = []
    for index, one in enumerate(documents):
        found = field_errors(one, Feedback) or wrong(msgspec.convert(one, Feedback))
        errors += [e.below(f"feedback[{index}]") for e in found] if isinstance(document, list) else found
    if errors:
        raise _refused(errors)
    return msgspec.convert(documents, list[Feedback])


def wrong(given: Feedback) -> list[FieldError]:
    errors = []
    if given.message_id is None and given.address is None:
        errors.append(FieldError("message_id", "is required, or address"))
    if given.address is not None and not _ADDRESS.fullmatch(given.address):
        errors.append(FieldError("address", "must be one address, like ada@example.org"))
    if given.at is not None and not 1970 <= given.at.year <= 9998:
        errors.append(FieldError("at", "must be between 1970 and 9998"))
    return errors


def _refused(errors: list[FieldError]) -> Refused:
    first = f"{errors[0].field}: {errors[0].message}" if errors[0].field else f"the body {errors[0].message}"
    return Refused(422, f"{first}; nothing was stored", errors)


def record(given: list[Feedback]) -> list[str]:
    """The status of each, in order, after the commit; in one trip."""
    firsts = {one.id: one for one in reversed(given)}  # of several with one id the first counts
    columns = {
        "id": array(firsts),
        "kind": array(one.kind for one in firsts.values()),
        "delivery": array(one.delivery for one in firsts.values()),
        "address": array(one.address for one in firsts.values()),
        "permanent": array(one.permanent for one in firsts.values()),
        "said": array((one.said or "").replace("\0", "")[:SAID] for one in firsts.values()),
        "at": array(one.at and one.at.astimezone(UTC) for one in firsts.values()),
    }
    with pool().connection() as connection:
        new: dict[str, bool] = dict(connection.execute(_RECORD, columns).fetchall())
    statuses = []
    for one in given:
        if one.id not in new:
            statuses.append("unknown")
        else:
            statuses.append("recorded" if new[one.id] else "duplicate")
            new[one.id] = False
    return statuses


@get(SUPPRESSION, tags=["email"], sync_to_thread=True, responses=problems(401, 404))
def get_suppression(address: str) -> Suppression:
    """Why an address gets no email, and since when; 404 when it does."""
    query = "SELECT address, reason, created_at FROM suppressed_addresses WHERE address = lower(%s)"
    return Suppression(*_one(query, address))


@delete(SUPPRESSION, tags=["email"], sync_to_thread=True, responses=problems(401, 404))
def delete_suppression(address: str) -> None:
    """Let an address get email again. Who complained stays unsubscribed from that category. Repeating it does no
    harm, and is answered 404."""
    _one("DELETE FROM suppressed_addresses WHERE address = lower(%s) RETURNING address", address)


def _one(query: str, address: str) -> tuple[Any, ...]:
    row, address = None, address.removeprefix("/")
    if _ADDRESS.fullmatch(address):
        with pool().connection() as connection:
            row = connection.execute(query, (address,)).fetchone()
    if row is None:
        raise NotFoundException("this address is not suppressed")
    return row
