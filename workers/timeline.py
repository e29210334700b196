"""What became of an event: from its door to every provider's answer, for whoever asks. Behind `tocsin trace`,
`GET /v1/notifications` and `GET /v1/notifications/{id}`; it reads, and shows no content. Addresses only
where a provider repeated one in its words.

No index leads from an event to its notifications, and none is needed: their ids are computed from the event's row,
and whatever belongs to a notification has ids of the same millisecond (schema/identity.py). An audience is read
from that millisecond's notifications, in the order of their ids; while it is being expanded, pages may shift.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg import Connection

from schema.identity import milliseconds_of, notification_id

PAGE, MOST = 50, 1000
"""Recipients of one answer: usually, at most."""

_ONE_MOMENT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
_EVENT = """
SELECT recipients, coalesce(send_at > now(), false),
    id, door, created_at, type, source,
    CASE WHEN accepted_at IS NOT NULL AND jsonb_typeof(recipients) = 'array' THEN jsonb_array_length(recipients)
        ELSE recipient_count END,
    routed_count, accepted_at, send_at, expires_at, rescues, rescued_at, cancelled_at, cancel_key,
    jsonb_typeof(recipients) IS NOT DISTINCT FROM 'object'
FROM events WHERE id = %s
"""
_OF_AUDIENCE = """
SELECT id, user_id FROM notifications
WHERE id >= %(begin)s AND id < %(end)s AND event_id = %(event)s AND (%(one)s::uuid IS NULL OR id = %(one)s)
ORDER BY id LIMIT %(limit)s OFFSET %(skip)s
"""
_REJECTED = "SELECT door, errors, created_at FROM rejected_events WHERE event_id = %s ORDER BY id DESC LIMIT 1"
_NOTIFICATIONS = """
SELECT n.id, n.event_id, n.user_id, n.type, n.category, n.importance, n.seq, n.closed, n.error,
    coalesce(n.group_id, CASE WHEN n.group_count IS NOT NULL THEN n.id END) AS group_id,
    coalesce(g.group_count, n.group_count) AS group_count,
    n.created_at, n.read_at, n.clicked_at, n.archived_at, n.expires_at
FROM notifications n LEFT JOIN notifications g ON g.id = n.group_id
WHERE n.id = ANY(%s::uuid[])
"""
_DELIVERIES = """
SELECT notification_id, id, channel, device_id, state, reason, attempt, receipt, created_at, settled_at,
    CASE WHEN state IN ('held', 'pending', 'sending', 'retrying') THEN next_attempt_at END, digest_id
FROM deliveries
WHERE id >= %s AND id < %s AND notification_id = ANY(%s::uuid[]) ORDER BY channel, id
"""
_CARRIERS = """
SELECT d.id, n.event_id FROM deliveries d JOIN notifications n ON n.id = d.notification_id
WHERE d.id = ANY(%s::uuid[])
"""
_ATTEMPTS = """
SELECT delivery_id, number, outcome, reason, said, started_at, ended_at
FROM attempts WHERE delivery_id = ANY(%s::uuid[]) ORDER BY delivery_id, number
"""


class Attempt(msgspec.Struct):
    """One try. `outcome`: sent, later, unknown, failed; `sending` while nothing is known. `said`: the provider's
    words."""

    number: int
    outcome: str
    reason: str | None
    said: str | None
    started_at: datetime
    ended_at: datetime | None


class DeliveryTimeline(msgspec.Struct):
    """`tries`: so far; a first success over the web has no attempt of its own. `next_attempt_at`: when something
    happens next, empty when nothing will. `digest_id`: the delivery that carries the digest with which this one
    goes out, or went; it may be this one. `digest_event`: that delivery's event, for which its timeline can be
    asked; empty when it is pruned."""

    id: UUID
    channel: str
    device_id: UUID | None
    state: str
    reason: str | None
    tries: int
    receipt: str | None
    created_at: datetime
    settled_at: datetime | None
    next_attempt_at: datetime | None
    digest_id: UUID | None = None
    digest_event: str | None = None
    attempts: list[Attempt] = []


class NotificationTimeline(msgspec.Struct):
    """One recipient of an event. `state`: routed, or not_routed, cancelled, unrenderable, gone; `says`: the same
    in words. `closed`: channel -> why it was not taken. `group_id`: the group it is a member of, or whose row it
    is."""

    id: UUID
    event_id: str | None
    user: str
    state: str
    says: str
    type: str | None = None
    category: str | None = None
    importance: str | None = None
    seq: int | None = None
    closed: dict[str, str] = {}
    error: str | None = None
    group_id: UUID | None = None
    group_count: int | None = None
    created_at: datetime | None = None
    read_at: datetime | None = None
    clicked_at: datetime | None = None
    archived_at: datetime | None = None
    expires_at: datetime | None = None
    deliveries: list[DeliveryTimeline] = []


class EventTimeline(msgspec.Struct):
    """`state`: at_the_sql_door, waiting (for send_at), routing, routed, cancelled, rejected; `says`: the same in
    words, after "the event …". `audience`: it is for a topic's subscribers, or for everybody; then `recipients` is
    how many are expected. `rescues`: how often the clock sent it again. `errors`: why it was rejected. `next`: how
    many recipients to skip for the rest of them; empty at the end."""

    id: str
    door: str
    created_at: datetime
    type: str | None = None
    source: str | None = None
    recipients: int = 0
    routed: int = 0
    accepted_at: datetime | None = None
    send_at: datetime | None = None
    expires_at: datetime | None = None
    rescues: int = 0
    rescued_at: datetime | None = None
    cancelled_at: datetime | None = None
    cancel_key: str | None = None
    audience: bool = False
    state: str = "rejected"
    says: str = ""
    errors: list[dict[str, str]] = []
    notifications: list[NotificationTimeline] = []
    next: int | None = None


def of_event(
    connection: Connection, event_id: str, user: str | None = None, skip: int = 0, limit: int = PAGE
) -> EventTimeline | None:
    """The event and a page of its recipients, or only `user`. None when nobody knows the event."""
    with connection.transaction():
        connection.execute(_ONE_MOMENT)
        row = connection.execute(_EVENT, (event_id,)).fetchone()
        if row is None:
            return _rejected(connection, event_id)
        addressed, waits, *columns = row
        found = EventTimeline(*columns)
        found.state, found.says = _state(found, waits)
        if found.accepted_at is None:
            return found
        at = milliseconds_of(found.accepted_at)
        if isinstance(addressed, list):
            chosen = [one for one in addressed if user in (None, one)]
            ids = {notification_id(at, event_id, one): one for one in chosen[skip : skip + limit]}
            more = len(chosen) > skip + limit
        else:
            listed = _of_audience(connection, at, event_id, user, skip, limit + 1)
            ids, more = dict(listed[:limit]), len(listed) > limit
        written = {one.id: one for one in _read(connection, at, list(ids))}
    found.notifications = [written.get(id_) or _unwritten(id_, one, found) for id_, one in ids.items()]
    found.next = skip + limit if more else None
    return found


def _of_audience(
    connection: Connection, at: int, event_id: str, user: str | None, skip: int, limit: int
) -> list[tuple[UUID, str]]:
    """For whom the event was written so far."""
    one = notification_id(at, event_id, user) if user else None
    bounds = {"begin": UUID(int=at << 80), "end": UUID(int=at + 1 << 80), "event": event_id}
    asked = bounds | {"one": one, "skip": skip, "limit": limit}
    return [(id_, user) for id_, user in connection.execute(_OF_AUDIENCE, asked)]


def of_notification(connection: Connection, id_: UUID) -> NotificationTimeline | None:
    """One notification; None when it was not written yet, or is gone."""
    with connection.transaction():
        connection.execute(_ONE_MOMENT)
        return next(iter(_read(connection, milliseconds_of(id_), [id_])), None)


def attempts_of(connection: Connection, deliveries: Sequence[UUID]) -> dict[UUID, list[Attempt]]:
    """Every recorded try, in order."""
    found: dict[UUID, list[Attempt]] = defaultdict(list)
    for delivery, *columns in connection.execute(_ATTEMPTS, (list(deliveries),)):
        found[delivery].append(Attempt(*columns))
    return found


def events_of(connection: Connection, carriers: Collection[UUID]) -> dict[UUID, str | None]:
    """The event of each delivery that carries a digest; without those that are pruned."""
    return dict(connection.execute(_CARRIERS, (list(carriers),)).fetchall()) if carriers else {}


def _read(connection: Connection, at: int, ids: list[UUID]) -> list[NotificationTimeline]:
    """The rows of notifications of the millisecond `at`: the range leads to one partition of each table."""
    begin = UUID(int=at << 80)
    end = UUID(int=at + 1 << 80)
    rows = connection.execute(_NOTIFICATIONS, (ids,)).fetchall()
    sent = connection.execute(_DELIVERIES, (begin, end, ids)).fetchall()
    tries = attempts_of(connection, [id_ for _, id_, *_ in sent])
    carriers = events_of(connection, {digest for *_, digest in sent if digest})
    deliveries: dict[UUID, list[DeliveryTimeline]] = defaultdict(list)
    for notification, *columns in sent:
        delivery = DeliveryTimeline(*columns)
        delivery.attempts = tries[delivery.id]
        delivery.digest_event = carriers.get(delivery.digest_id) if delivery.digest_id else None
        deliveries[notification].append(delivery)
    return [_written(*row, deliveries[row[0]]) for row in rows]


def _written(id_: UUID, event_id: str | None, user: str, *columns: Any) -> NotificationTimeline:
    found = NotificationTimeline(id_, event_id, user, "routed", "", *columns)
    if found.error:
        found.state = "unrenderable"
        found.says = f"its template failed, so nothing was sent: {found.error}"
    elif event_id is None:
        found.says = "the row of a group: its members have timelines of their own"
    elif found.group_id:
        found.says = f"written, and shown in a group of {found.group_count or 0:,}"
    elif found.seq is None:
        found.says = "written, and not shown in the inbox"
    else:
        found.says = f"written, and shown in the inbox at place {found.seq:,}"
    return found


def _unwritten(id_: UUID, user: str, event: EventTimeline) -> NotificationTimeline:
    if event.state == "routed":
        why = "its row is gone: the user was erased, or the month pruned"
        return NotificationTimeline(id_, event.id, user, "gone", why)
    if event.cancelled_at:
        return NotificationTimeline(id_, event.id, user, "cancelled", f"never written: the event {event.says}")
    return NotificationTimeline(id_, event.id, user, "not_routed", f"not written yet: the event {event.says}")


def _state(event: EventTimeline, waits: bool) -> tuple[str, str]:
    if event.cancelled_at:
        of = f"{event.routed:,} of {_many(event.recipients, 'recipient')}"
        return "cancelled", f"was cancelled at {event.cancelled_at:%Y-%m-%d %H:%M:%S} UTC, written for {of}"
    if event.accepted_at is None:
        return "at_the_sql_door", "waits at the SQL door until intake has checked it"
    if event.routed >= event.recipients:
        return "routed", f"was routed to {_many(event.recipients, 'recipient')}"
    if waits and event.send_at:
        return "waiting", f"waits for its send_at, {event.send_at:%Y-%m-%d %H:%M:%S} UTC"
    says = f"is on its way: {event.routed:,} of {_many(event.recipients, 'recipient')} written"
    if event.rescued_at:
        last = f"{event.rescued_at:%Y-%m-%d %H:%M:%S} UTC"
        says += f", and the clock sent it again {_many(event.rescues, 'time')}, last at {last}"
    return "routing", says


def _many(count: int, of: str) -> str:
    return f"{count:,} {of}" if count == 1 else f"{count:,} {of}s"


def _rejected(connection: Connection, event_id: str) -> EventTimeline | None:
    row = connection.execute(_REJECTED, (event_id,)).fetchone()
    if row is None:
        return None
    door, errors, at = row
    why = "; ".join(f"{e['field']}: {e['message']}" if e["field"] else e["message"] for e in errors)
    return EventTimeline(event_id, door, at, says=f"was refused at the {door} door: {why}", errors=errors)
