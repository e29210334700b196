"""The room behind all three doors: events become rows, each exactly once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec
from psycopg import Connection

from pipelines.arrays import json, texts
from pipelines.catalog import Catalog
from schema.errors import FieldError, InvalidEvent
from schema.event import Event, body_hash, read_event
from schema.identity import milliseconds_of, notification_id
from schema.notification import CHANNELS, Notification

_KNOWN = """
SELECT id, encode(body_hash, 'hex') FROM events WHERE id = ANY(%s::text[])
"""
_INSERT = """
INSERT INTO events (id, type, recipients, actor, data, group_key, importance, send_at, expires_at, source,
    door, accepted_at, body_hash, recipient_count)
SELECT id, type, recipients, actor, data, group_key, importance, send_at, expires_at, source,
    %s, now(), decode(body_hash, 'hex'), jsonb_array_length(recipients)
FROM json_to_recordset(%s) AS e (id text, type text, recipients jsonb, actor text, data jsonb, group_key text,
    importance text, send_at timestamptz, expires_at timestamptz, source text, body_hash text)
ORDER BY id -- two processes that store the same events wait for each other, and never in a circle
ON CONFLICT (id) DO NOTHING
RETURNING id, accepted_at, send_at > now()
"""
TIMERS = """
INSERT INTO timers (key, kind, subject, due_at)
SELECT 'event/' || id, 'event', id, send_at FROM events WHERE id = ANY(%s) ON CONFLICT (key) DO NOTHING
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
    """What the chain needs to know of an event's row."""

    id: str
    type: str
    recipients: list[str]
    importance: str | None
    group_key: str | None
    accepted_at: datetime


@dataclass(frozen=True, slots=True)
class Verdict:
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
    """Stores what several callers sent, in one transaction, each call whole or not at all; committed on return.
    Answers a verdict per call, and the new events to send into the chain now. The same event twice, here or in
    two processes at the same moment, is stored once."""
    while True:
        with connection.transaction() as attempt:
            verdicts, fresh = judge(connection, calls)
            stored = insert(connection, door, fresh)
            if len(stored) < len(fresh):
                # Another process stored one of them since we looked: look again, now it is there to be seen.
                attempt.force_rollback = True
                continue
            if waiting := [id_ for id_, (_, waits) in stored.items() if waits]:
                connection.execute(TIMERS, (waiting,))
            break
    ready = [
        Accepted(e.id or "", e.type, e.recipients, e.importance, e.group_key, stored[e.id or ""][0])
        for e, _ in fresh
        if not stored[e.id or ""][1]
    ]
    return verdicts, ready


def judge(connection: Connection, calls: Sequence[Sequence[Arrival]]) -> tuple[list[Verdict], list[Arrival]]:
    """Which events are new, which are repeats, and which calls clash with what is there or with each other."""
    ids = [arrival.event.id for call in calls for arrival in call]
    known = {id_: found or "" for id_, found in connection.execute(_KNOWN, (texts(ids),))}
    verdicts: list[Verdict] = []
    fresh: list[Arrival] = []
    for call in calls:
        statuses, conflicts, new = [], [], dict[str, Arrival]()
        for place, arrival in enumerate(call):
            id_ = arrival.event.id or ""
            seen = known.get(id_) if id_ in known else new[id_].hash if id_ in new else None
            if seen is None:
                new[id_] = arrival
            elif seen != arrival.hash:
                conflicts.append(place)
            statuses.append("accepted" if seen is None else "duplicate")
        if not conflicts:
            known |= {id_: arrival.hash for id_, arrival in new.items()}
            fresh += new.values()
        verdicts.append(Verdict([] if conflicts else statuses, conflicts))
    return verdicts, fresh


def insert(connection: Connection, door: str, arrivals: Sequence[Arrival]) -> dict[str, tuple[datetime, bool]]:
    """The events really inserted: id -> (accepted_at, whether it waits for its send_at)."""
    if not arrivals:
        return {}
    events = [msgspec.structs.asdict(event) | {"body_hash": hash_} for event, hash_ in arrivals]
    rows = connection.execute(_INSERT, (door, json(events)))
    return {id_: (accepted_at, bool(waits)) for id_, accepted_at, waits in rows}


def reject(
    connection: Connection, door: str, rejected: Iterable[tuple[str | None, bytes, list[FieldError]]]
) -> None:
    """Keeps what a door that cannot answer had to refuse: id if known, payload as it came, and why."""
    ids, payloads, errors = [], [], []
    for id_, payload, found in rejected:
        ids.append(id_)
        payloads.append(payload.decode(errors="backslashreplace").replace("\0", "\\u0000"))
        errors.append(json([{"field": e.field, "message": e.message} for e in found]).replace("\\u0000", "?"))
    if ids:
        connection.execute(_REJECT, (door, texts(ids), texts(payloads), texts(errors)))


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
        for recipient in accepted.recipients
    ]
