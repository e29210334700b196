"""Dead letters: what nothing tries any more, until a person decides. Behind `tocsin dead` and `/v1/dead`;
workers/redrive.py is what they may decide.

d-UUID    a delivery whose schedule is spent: deliveries.state = 'dead'
m-NUMBER  a message whose actor raised, or that could not be read: a row of `dead_letters`

A list names neither users nor content nor what a provider or an error said; one letter by itself shows them.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from psycopg import Connection

from schema.errors import TocsinError
from workers.queues import delivery_queue
from workers.timeline import Attempt, attempts_of

PAGE, MOST = 50, 500
"""Letters of one list: usually, at most."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_REASON = "coalesce(substring(l.cause FROM '^[A-Za-z_][A-Za-z0-9_.]*'), 'unknown')"
"""Of a message: its error's name, without what the error says."""
_LIST = """
SELECT * FROM (
    SELECT ('d-' || d.id) COLLATE "C" AS key, d.settled_at AS died_at, d.channel, d.reason, d.attempt AS tries,
        d.notification_id, NULL AS queue, NULL AS actor
    FROM deliveries d WHERE {deliveries} ORDER BY d.settled_at DESC, d.id DESC LIMIT %(limit)s
) AS d
UNION ALL
SELECT * FROM (
    SELECT ('m-' || l.id) COLLATE "C" AS key, l.created_at, NULL, {reason}, NULL::smallint, NULL::uuid, l.queue,
        l.actor
    FROM dead_letters l WHERE {messages} ORDER BY l.created_at DESC, key DESC LIMIT %(limit)s
) AS m
ORDER BY died_at DESC, key DESC LIMIT %(limit)s
"""
_EVENTS = "SELECT id, type, event_id FROM notifications WHERE id = ANY(%s::uuid[])"
_COUNT = """
SELECT (SELECT count(*) FROM deliveries d WHERE {deliveries}),
    (SELECT count(*) FROM dead_letters l WHERE {messages})
"""
_DELIVERY = """
SELECT 'd-' || d.id, d.state, d.settled_at, d.channel, n.type, d.reason, d.attempt, n.event_id, d.notification_id,
    d.user_id, d.device_id
FROM deliveries d LEFT JOIN notifications n ON n.id = d.notification_id WHERE d.id = %s
"""
_MESSAGE = f"""
SELECT 'm-' || l.id,
    CASE WHEN replayed_at IS NOT NULL THEN 'replayed' WHEN discarded_at IS NOT NULL THEN 'discarded'
        ELSE 'dead' END,
    created_at, queue, actor, {_REASON}, cause, trace, message, replayed_at, discarded_at
FROM dead_letters l WHERE l.id = %s
"""


class Letter(msgspec.Struct):
    """A line of the list. Deliveries have a channel, tries, and their notification; messages a queue and an actor,
    and for reason the name of an error."""

    id: str
    died_at: datetime
    channel: str | None
    reason: str | None
    tries: int | None
    notification_id: UUID | None
    queue: str | None
    actor: str | None
    type: str | None = None
    event_id: str | None = None


class DeadDelivery(msgspec.Struct):
    """`state` is no longer dead once somebody replayed or discarded it. Attempts hold the provider's words."""

    id: str
    state: str
    died_at: datetime | None
    channel: str
    type: str | None
    reason: str | None
    tries: int
    event_id: str | None
    notification_id: UUID
    user: str
    device_id: UUID | None
    attempts: list[Attempt] = []


class DeadMessage(msgspec.Struct):
    """`state`: dead, replayed, discarded. `message` holds ids and routing facts, or what could not be read."""

    id: str
    state: str
    died_at: datetime
    queue: str
    actor: str
    reason: str
    cause: str
    trace: str
    message: str
    replayed_at: datetime | None
    discarded_at: datetime | None


class Which(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters that fit everything given here. `channel`: also messages of its queue; `type`: deliveries only;
    `reason`: of a delivery, or the name of a message's error; `since`, `until`: when they died."""

    ids: tuple[str, ...] | None = None
    channel: str | None = None
    type: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self, place: tuple[datetime, str] | None = None) -> tuple[dict[str, str], dict[str, Any]]:
        """SQL of what fits, by its table, and the values in it; `place`: what lies behind it in the list's order.
        Raises TocsinError for an id that is none."""
        deliveries = ["d.state = 'dead'"]
        messages = ["l.replayed_at IS NULL AND l.discarded_at IS NULL"]
        if self.ids is not None:
            deliveries.append("d.id = ANY(%(deliveries)s::uuid[])")
            messages.append("l.id = ANY(%(messages)s::bigint[])")
        if self.channel is not None:
            deliveries.append("d.channel = %(channel)s")
            messages.append("l.queue = %(queue)s")
        if self.type is not None:
            of_type = "SELECT FROM notifications n WHERE n.id = d.notification_id AND n.type = %(type)s"
            deliveries.append(f"EXISTS ({of_type})")
            messages.append("false")
        if self.reason is not None:
            deliveries.append("d.reason = %(reason)s")
            messages.append(f"{_REASON} = %(reason)s")
        if self.since is not None:
            deliveries.append("d.settled_at >= %(since)s")
            messages.append("l.created_at >= %(since)s")
        if self.until is not None:
            deliveries.append("d.settled_at < %(until)s")
            messages.append("l.created_at < %(until)s")
        if place is not None:
            deliveries.append("(d.settled_at, ('d-' || d.id) COLLATE \"C\") < (%(at)s, %(key)s)")
            messages.append("(l.created_at, ('m-' || l.id) COLLATE \"C\") < (%(at)s, %(key)s)")
        at, key = place or (None, None)
        values = msgspec.structs.asdict(self) | split(self.ids or ()) | {"at": at, "key": key}
        values["queue"] = self.channel and delivery_queue(self.channel)
        return {
            "deliveries": " AND ".join(deliveries),
            "messages": " AND ".join(messages),
            "reason": _REASON,
        }, values


def letters(
    connection: Connection, which: Which, limit: int = PAGE, before: str | None = None
) -> tuple[list[Letter], str | None]:
    """Newest first, and what to give as `before` for the rest, or None. Raises TocsinError for a wrong one."""
    conditions, values = which.conditions(place(before) if before else None)
    with connection.transaction():
        rows = connection.execute(_LIST.format(**conditions), values | {"limit": limit + 1}).fetchall()
        found = [Letter(*row) for row in rows[:limit]]
        notifications = [one.notification_id for one in found if one.notification_id]
        told = {id_: rest for id_, *rest in connection.execute(_EVENTS, (notifications,))}
    for one in found:
        one.type, one.event_id = told.get(one.notification_id, (None, None))
    if len(rows) <= limit:
        return found, None
    last = found[-1]
    return found, f"{(last.died_at - _EPOCH) // _MICROSECOND}.{last.id}"


def count(connection: Connection, which: Which) -> tuple[int, int]:
    """How many deliveries and messages fit."""
    conditions, values = which.conditions()
    with connection.transaction():
        ((deliveries, messages),) = connection.execute(_COUNT.format(**conditions), values)
    return deliveries, messages


def letter(connection: Connection, id_: str) -> DeadDelivery | DeadMessage | None:
    """One by its id, also when it is dead no more. Raises TocsinError for an id that is none."""
    ids = split([id_])
    with connection.transaction():
        if ids["messages"]:
            row = connection.execute(_MESSAGE, (ids["messages"][0],)).fetchone()
            return DeadMessage(*row) if row else None
        (delivery,) = ids["deliveries"]
        row = connection.execute(_DELIVERY, (delivery,)).fetchone()
        if row is None:
            return None
        found = DeadDelivery(*row)
        found.attempts = attempts_of(connection, [delivery])[delivery]
        return found


def split(ids: Iterable[str]) -> dict[str, list[Any]]:
    """The rows' own ids, by their table. Raises TocsinError naming what is no id of a dead letter."""
    deliveries, messages = [], []
    for id_ in ids:
        kind, _, rest = id_.partition("-")
        try:
            if kind == "m" and rest.isascii() and rest.isdigit() and int(rest) < 2**63:
                messages.append(int(rest))
                continue
            if kind == "d":
                deliveries.append(UUID(rest))
                continue
        except ValueError:
            pass
        raise TocsinError(f"{id_[:80]!r} is no id of a dead letter: they look like d-UUID and m-NUMBER")
    return {"deliveries": deliveries, "messages": messages}


def place(before: str) -> tuple[datetime, str]:
    """When the last letter of a page died, and its id."""
    at, _, id_ = before.partition(".")
    split([id_])
    if not (at.isascii() and at.isdigit() and len(at) <= 17):
        raise TocsinError("before: must be what `next` said, unchanged")
    return _EPOCH + int(at) * _MICROSECOND, id_


def instant(text: str, now: datetime | None = None) -> datetime:
    """`2h` (30s, 5min, 3d, 2w) ago, or an ISO 8601 instant or day, in UTC unless it says otherwise. Raises
    TocsinError."""
    if ago := re.fullmatch(r"(\d{1,6}) ?(s|m|min|h|d|w)", text, re.ASCII):
        return (now or datetime.now(UTC)) - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise TocsinError(f"{text[:40]!r} is no time: write 2h, 3d, or 2026-01-31T09:00:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
