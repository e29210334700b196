"""The room behind all three doors: events become rows, each exactly once."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple

from psycopg import Connection
from psycopg.errors import UniqueViolation

from pipelines.arrays import array, json
from pipelines.catalog import Catalog
from schema.errors import FieldError, InvalidEvent
from schema.event import Event, body_hash, read_event
from schema.identity import milliseconds_of, notification_id
from schema.notification import CHANNELS, Notification

_KNOWN = """
SELECT id, encode(body_hash, 'hex') FROM events WHERE id = ANY(%s::text[])
"""
_INSERT = """
WITH stored AS (
    INSERT INTO events (type, id, actor, group_key, importance, send_at, expires_at, cancel_key, source, body_hash,
        recipients, data, recipient_count, door, accepted_at)
    SELECT type, id, actor, group_key, importance, send_at, expires_at, cancel_key, source, decode(hash, 'hex'),
        recipients, data,
        CASE jsonb_typeof(recipients) WHEN 'array' THEN jsonb_array_length(recipients) ELSE 1 END, %(door)s, now()
    FROM ROWS FROM (
        unnest(%(type)s::text[], %(id)s::text[], %(actor)s::text[], %(group_key)s::text[], %(importance)s::text[],
            %(send_at)s::timestamptz[], %(expires_at)s::timestamptz[], %(cancel_key)s::text[], %(source)s::text[],
            %(hash)s::text[]),
        jsonb_array_elements(%(recipients)s::jsonb),
        jsonb_array_elements(%(data)s::jsonb)
    ) AS e (type, id, actor, group_key, importance, send_at, expires_at, cancel_key, source, hash, recipients,
        data)
    WHERE NOT EXISTS (SELECT FROM events WHERE id = ANY(%(id)s::text[])) -- a repeat is no error to be logged
    ORDER BY id -- two processes that store the same events wait for each other, and never in a circle
    RETURNING id, accepted_at, send_at
), waiting AS (
    INSERT INTO timers (key, kind, subject, due_at)
    SELECT 'event/' || id, 'event', id, send_at FROM stored WHERE send_at > now() ON CONFLICT (key) DO NOTHING
)
SELECT id, accepted_at, send_at > now() FROM stored
"""
_REJECT = """
INSERT INTO rejected_events (door, event_id, payload, errors)
SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::jsonb[])
"""


class Arrival(NamedTuple):
    """An event that was checked, and its body's hash."""

    event: Event
    hash: str


class Accepted(NamedTuple):
    """What the chain needs to know of an event's row. `recipients`: None for an audience, see audience.py."""

    id: str
    type: str
    recipients: list[str] | None
    importance: str | None
    group_key: str | None
    accepted_at: datetime


class Verdict(NamedTuple):
    """What became of one call: per event "accepted" or "duplicate", in order; or, with `conflicts`, nothing
    was stored, because the events at those places have ids that were used before with other bodies."""

    statuses: list[str]
    conflicts: list[int]


def read(raw: bytes, catalog: Catalog, default_id: str | None = None) -> Arrival:
    """One event from its JSON, whole; `default_id` is for one that brings none. Raises InvalidEvent naming every
    field that is wrong."""
    event = read_event(raw, default_id)
    errors = catalog.check(event.type, event.data)
    if errors:
        raise InvalidEvent(errors)
    return Arrival(event, body_hash(event))


def accept(
    connection: Connection, door: str, calls: Sequence[Sequence[Arrival]]
) -> tuple[list[Verdict], list[Accepted]]:
    """Stores what several callers sent, each call whole or not at all; committed on return, if the connection
    commits each statement by itself. Answers a verdict per call, and the new events to send into the chain now.
    The same event twice, here or in two processes at the same moment, is stored once. One trip when all is new."""
    known: dict[str, str] = {}
    verdicts, fresh = judge(calls, known)
    while len(stored := insert(connection, door, fresh)) < len(fresh):
        known = stored_before(connection, calls)
        verdicts, fresh = judge(calls, known)
    ready = [
        Accepted(e.id or "", e.type, listed(e), e.importance, e.group_key, stored[e.id or ""][0])
        for e, _ in fresh
        if not stored[e.id or ""][1]
    ]
    return verdicts, ready


def stored_before(connection: Connection, calls: Sequence[Sequence[Arrival]]) -> dict[str, str]:
    """Those of the events that are there already: id -> hash, for `judge`."""
    ids = [arrival.event.id for call in calls for arrival in call]
    return {id_: found or "" for id_, found in connection.execute(_KNOWN, (array(ids),))}


def listed(event: Event) -> list[str] | None:
    """Its recipients, as far as it names them."""
    return event.recipients if isinstance(event.recipients, list) else None


def judge(calls: Sequence[Sequence[Arrival]], known: dict[str, str]) -> tuple[list[Verdict], list[Arrival]]:
    """Which events are new, which are repeats, and which calls clash with what is there or with each other.
    `known`: id -> hash of what is there."""
    seen = dict(known)
    verdicts: list[Verdict] = []
    fresh: list[Arrival] = []
    for call in calls:
        statuses, conflicts, new = [], [], dict[str, Arrival]()
        for place, arrival in enumerate(call):
            id_ = arrival.event.id or ""
            hash_ = seen.get(id_) if id_ in seen else new[id_].hash if id_ in new else None
            if hash_ is None:
                new[id_] = arrival
            elif hash_ != arrival.hash:
                conflicts.append(place)
            statuses.append("accepted" if hash_ is None else "duplicate")
        if not conflicts:
            seen.update((id_, arrival.hash) for id_, arrival in new.items())
            fresh += new.values()
        verdicts.append(Verdict([] if conflicts else statuses, conflicts))
    return verdicts, fresh


def insert(connection: Connection, door: str, arrivals: Sequence[Arrival]) -> dict[str, tuple[datetime, bool]]:
    """The events as inserted: id -> (accepted_at, whether it waits for its send_at). All of them or, when one is
    there already, none."""
    if not arrivals:
        return {}
    events = [event for event, _ in arrivals]
    columns: dict[str, str] = {
        "door": door,
        "hash": array(hash_ for _, hash_ in arrivals),
        "recipients": json([event.recipients for event in events]),
        "data": json([event.data for event in events]),
    }
    for name in (
        "type",
        "id",
        "actor",
        "group_key",
        "importance",
        "send_at",
        "expires_at",
        "cancel_key",
        "source",
    ):
        columns[name] = array(map(attrgetter(name), events))
    try:
        rows = connection.execute(_INSERT, columns).fetchall()
    except UniqueViolation:  # another process stored one since we looked
        return {}
    return {id_: (accepted_at, bool(waits)) for id_, accepted_at, waits in rows}


def reject(
    connection: Connection, door: str, rejected: Iterable[tuple[str | None, bytes, list[FieldError]]]
) -> None:
    """Keeps what a door that cannot answer had to refuse: id if known, payload as it came, and why."""
    ids, payloads, errors = [], [], []
    for id_, payload, found in rejected:
        ids.append(id_)
        payloads.append(payload.decode(errors="backslashreplace").replace("\0", "\\u0000"))
        errors.append(json([{"field": _storable(e.field), "message": _storable(e.message)} for e in found]))
    if ids:
        connection.execute(_REJECT, (door, array(ids), array(payloads), array(errors)))


def _storable(text: str) -> str:
    """PostgreSQL stores no NUL and no lone surrogate."""
    return text.replace("\0", "?").encode(errors="replace").decode()


def address(accepted: Accepted, catalog: Catalog) -> list[Notification]:
    """The event's notifications, one per recipient, with every channel still open."""
    kind = catalog.types.get(accepted.type)
    importance = accepted.importance or (kind.importance if kind else "normal")
    at = milliseconds_of(accepted.accepted_at)
    return [
        Notification(
            notification_id(at, accepted.id, recipient),
            accepted.id,
            accepted.type,
            recipient,
            importance,
            CHANNELS,
            {},
            accepted.group_key,
        )
        for recipient in accepted.recipients or ()
    ]
