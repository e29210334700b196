"""The web channel's deliveries: read as rows of inboxes, published, settled; nothing is claimed, for what is said
twice is shown once.

Repeating is safe: what is settled is not read again, and settling is fenced by the number of tries.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from types import ModuleType
from typing import Any, NamedTuple, cast
from uuid import UUID

import msgspec
from msgspec import UNSET
from psycopg import Connection
from psycopg.rows import args_row

from pipelines.arrays import array
from pipelines.backoff import backoff
from pipelines.quiet_hours import quiet_hours, until
from pipelines.stage import Resources
from schema.delivery import DEAD, FAILED, RETRYING, SENT, Later, Never, Sent
from schema.wire import Group, InboxItem, Publication
from workers.channels import web

_OPEN = "d.state NOT IN ('sent', 'failed', 'dead')"
"""Said so that it is looked up by id: `IN ('pending', 'retrying')` is the condition of an index that holds the
whole backlog, and PostgreSQL would walk all of it."""
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
"""All reads see one moment: the inbox's version belongs to the rows beside it."""
_DELIVERIES = f"""
SELECT id::text, attempt, replayed_after, notification_id::text, user_id FROM deliveries d
WHERE id = ANY(%s::uuid[]) AND {_OPEN}
"""
_INBOXES = "SELECT user_id, version, unread FROM inboxes WHERE user_id = ANY(%s::text[])"
_QUIET = """
SELECT id, quiet_days, quiet_from, quiet_to, time_zone, now() FROM users
WHERE id = ANY(%s::text[]) AND quiet_from IS NOT NULL
"""
_NOTIFICATIONS = """
SELECT group_id::text, id::text, seq, type, category, importance, title, message, data::text, action_url,
    created_at, read_at, clicked_at, archived_at, group_count, "leading", silent
FROM notifications WHERE id = ANY(%s::uuid[])
"""
_SETTLE = f"""
WITH settled AS (
    UPDATE deliveries d
    SET state = o.state, reason = o.reason, receipt = o.receipt, attempt = d.attempt + 1,
        next_attempt_at = now() + o.wait, settled_at = CASE WHEN o.state = 'retrying' THEN NULL ELSE now() END
    FROM unnest(%s::uuid[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::interval[])
        AS o (id, attempt, type, state, reason, receipt, wait)
    WHERE d.id = o.id AND d.attempt = o.attempt AND d.id = ANY(%s::uuid[]) AND {_OPEN}
    RETURNING d.id, d.attempt, d.state, d.reason, o.type
), tried AS (
    INSERT INTO attempts (delivery_id, number, outcome, reason)
    SELECT id, attempt, state, reason FROM settled WHERE state <> 'sent'
)
INSERT INTO notification_analytics (type, event, hour, shard, count)
SELECT type, 'sent', date_trunc('hour', now()), pg_backend_pid() %% 8, count(*)
FROM settled WHERE state = 'sent' GROUP BY type ORDER BY type
ON CONFLICT (type, event, hour, shard) DO UPDATE SET count = notification_analytics.count + excluded.count
"""


Told = Sent | Later | Never
"""What the web channel may answer."""


class Shown(NamedTuple):
    """A row of an inbox. Ids are text here: they go from one document into another."""

    group_id: str | None
    id: str
    seq: int
    type: str
    category: str
    importance: str
    title: str
    message: str
    data: str
    action_url: str | None
    created_at: datetime
    read_at: datetime | None
    clicked_at: datetime | None
    archived_at: datetime | None
    group_count: int | None
    leading: list[UUID]
    silent: bool | None


class Open(NamedTuple):
    """A delivery to be sent, and the row of an inbox that it tells of: the notification's own, or its group's.
    `failed`: tries since it was made or replayed."""

    delivery: str
    attempt: int
    failed: int
    type: str
    user: str
    version: int
    unread: int
    row: Shown
    silent: bool = False


def publish(channel: ModuleType, ids: Sequence[UUID], use: Resources) -> None:
    """Sends deliveries that are still open. No connection is held while the channel sends."""
    with use.pool.connection() as connection:
        found = read_open(connection, ids)
    if not found:
        return
    outcomes = channel.send([item(one) for one in found], use.redis)
    with use.pool.connection() as connection:
        settle(connection, channel.SCHEDULE, found, outcomes)


def read_open(connection: Connection, ids: Sequence[UUID]) -> list[Open]:
    """In the order of their users' inboxes. Looked up by arrays of ids and put together here: PostgreSQL would
    join them one by one, in three times as long."""
    with connection.pipeline():
        connection.execute(_BEGIN)
        deliveries = connection.execute(_DELIVERIES, (array(ids),)).fetchall()
        users = {user for *_, user in deliveries}
        inboxes = connection.execute(_INBOXES, (array(users),))
        resting = connection.execute(_QUIET, (array(users),))
        rows = read_rows(connection, [id_ for *_, id_, _ in deliveries])
        rows |= read_rows(connection, {row.group_id for row in rows.values() if row.group_id})
        connection.execute("COMMIT")  # psycopg's own takes a pipeline that was read from for one without BEGIN
    known = {user: (version, unread) for user, version, unread in inboxes}
    quiet = {user for user, *hours, now in resting if until(quiet_hours(*hours), now)}
    found = []
    for id_, attempt, replayed_after, told, user in deliveries:
        row = rows.get(told)
        if row and user in known and (shown := rows.get(row.group_id) if row.group_id else row):
            silent = bool(row.silent) or (user in quiet and row.importance != "critical")
            tries = attempt - replayed_after
            found.append(Open(id_, attempt, tries, row.type, user, *known[user], shown, silent))
    return sorted(found, key=lambda one: (one.user, one.row.seq or 0, one.silent))  # what rings comes first


def read_rows(connection: Connection, ids: Collection[str]) -> dict[str, Shown]:
    if not ids:
        return {}
    cursor = connection.cursor(row_factory=args_row(Shown))
    return {row.id: row for row in cursor.execute(_NOTIFICATIONS, (array(ids),))}


def item(one: Open) -> web.Item:
    """What the web channel needs of a row."""
    row = one.row
    shown = InboxItem(
        cast("UUID", row.id),
        row.seq,
        row.type,
        row.category,
        row.importance,
        row.title,
        row.message,
        cast("dict[str, Any]", msgspec.Raw(row.data.encode())),  # JSON goes into JSON as it is
        row.action_url,
        row.created_at,
        row.read_at is not None,
        row.read_at,
        row.clicked_at,
        row.archived_at,
        Group(row.group_count, row.leading) if row.group_count else None,
        one.silent or UNSET,
    )
    return web.Item(one.user, Publication("notification", one.version, one.unread, shown))


def settle(
    connection: Connection, schedule: Sequence[float], rows: Sequence[Open], outcomes: Iterable[Told]
) -> None:
    """Records the outcomes in one trip. A delivery that another worker settled meanwhile stays as it is."""
    settled = [judge(row, schedule, outcome) for row, outcome in zip(rows, outcomes, strict=True)]
    columns = [array(column) for column in zip(*settled, strict=True)]
    connection.execute(_SETTLE, (*columns, columns[0]))


class Settled(NamedTuple):
    """What one try made of a delivery. `attempt`: tries before it; `wait`: seconds until the next, as a string."""

    id: str
    attempt: int
    type: str
    state: str
    reason: str | None = None
    receipt: str | None = None
    wait: str = "0"


def judge(row: Open, schedule: Sequence[float], outcome: Told) -> Settled:
    """Sent is sent and Never has failed; Later is tried again until the schedule is spent."""
    which = row.delivery, row.attempt, row.type
    match outcome:
        case Sent(receipt):
            return Settled(*which, SENT, receipt=receipt)
        case Never(reason):
            return Settled(*which, FAILED, reason)
        case Later(reason) if row.failed < len(schedule):
            return Settled(*which, RETRYING, reason, wait=f"{backoff(schedule, row.failed):.3f}")
        case Later(reason):
            return Settled(*which, DEAD, reason)
