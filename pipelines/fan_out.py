"""The end of the chain: writes notifications and deliveries, and moves inboxes, a batch in one transaction.

Repeats safely: under the locks of the recipients' inboxes it leaves out what is already there, so a batch that
comes twice changes nothing the second time. seq follows the order of commits: the lock is held until then.
"""

from collections import Counter, defaultdict
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from psycopg import Connection

from pipelines.inbox import Inbox, Row, compose, place
from pipelines.stage import Resources
from schema.identity import delivery_id
from schema.notification import Notification

RESEND_AFTER = timedelta(seconds=15)
"""A delivery still pending after this long lost its message: the clock sends it again."""

_CONTENT = "SELECT id, data, actor, expires_at, now() FROM events WHERE id = ANY(%s)"
_LOCK = """
SELECT user_id, seq, unread, windows FROM inboxes WHERE user_id = ANY(%s) ORDER BY user_id FOR UPDATE
"""
_PRESENT = "SELECT id FROM notifications WHERE id = ANY(%s)"
_NEW_USERS = "INSERT INTO users (id) SELECT unnest(%s::text[]) ORDER BY 1 ON CONFLICT DO NOTHING"
_NEW_INBOXES = "INSERT INTO inboxes (user_id) SELECT unnest(%s::text[]) ORDER BY 1 ON CONFLICT DO NOTHING"
_MOVE_INBOXES = """
UPDATE inboxes i SET seq = m.seq, unread = m.unread, version = version + 1, windows = m.windows
FROM unnest(%s::text[], %s::bigint[], %s::int[], %s::jsonb[]) AS m (user_id, seq, unread, windows)
WHERE i.user_id = m.user_id
"""
_INSERT = """
INSERT INTO notifications (id, event_id, user_id, seq, type, category, importance, actor, title, message,
    action_url, data, closed, error, group_id, created_at, expires_at)
SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[],
    %s::text[], %s::text[], %s::text[], %s::text[], %s::jsonb[], %s::jsonb[], %s::text[], %s::uuid[],
    %s::timestamptz[], %s::timestamptz[])
"""
_DELIVER = """
INSERT INTO deliveries (id, notification_id, user_id, channel, state, reason, next_attempt_at, settled_at)
SELECT id, notification_id, user_id, channel, CASE WHEN reason IS NULL THEN 'pending' ELSE 'failed' END, reason,
    now() + %s, CASE WHEN reason IS NULL THEN NULL ELSE now() END
FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::text[])
    AS d (id, notification_id, user_id, channel, reason)
"""
_ROUTED = """
UPDATE events e SET routed_count = routed_count + r.count
FROM unnest(%s::text[], %s::int[]) AS r (id, count) WHERE e.id = r.id
"""
_CLOSE_GROUPS = "UPDATE notification_groups SET closed_at = now() WHERE id = ANY(%s) AND closed_at IS NULL"
_FOLD = "UPDATE notifications SET group_id = %s WHERE id = ANY(%s)"
_GROUP = """
INSERT INTO notification_groups (id, user_id, type, group_key, count, last_notification_id)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET count = excluded.count, last_notification_id = excluded.last_notification_id,
    updated_at = now()
"""
_GROUP_ROW = """
INSERT INTO notifications (id, user_id, seq, type, category, importance, title, message, action_url, group_count,
    "leading", created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, importance = excluded.importance,
    title = excluded.title, message = excluded.message,
    action_url = excluded.action_url, group_count = excluded.group_count, created_at = excluded.created_at
"""


def fan_out(batch: list[Notification], use: Resources) -> dict[str, list[UUID]]:
    """Writes the batch; returns the deliveries to send, by channel (none for what was written before)."""
    with use.pool.connection() as connection:
        events = {
            id_: (data, actor, expires_at, now)
            for id_, data, actor, expires_at, now in connection.execute(
                _CONTENT, (list({n.event_id for n in batch}),)
            )
        }
    rows = [compose(n, *events[n.event_id], use.catalog) for n in batch if n.event_id in events]
    if not rows:
        return {}
    with use.pool.connection() as connection:
        inboxes, present = lock(connection, rows)
        fresh = [
            row for row in {r.notification.id: r for r in rows}.values() if row.notification.id not in present
        ]
        if not fresh:
            return {}
        for row in fresh:
            place(row, inboxes[row.notification.recipient], use.catalog)
        return write(connection, fresh, inboxes, use)


def lock(connection: Connection, rows: list[Row]) -> tuple[dict[str, Inbox], set[UUID]]:
    """Locks the recipients' inboxes, in order of their ids so that batches never deadlock, and finds what is
    already written. A recipient nobody knew gets a user and an inbox."""
    users = sorted({row.notification.recipient for row in rows})
    with connection.pipeline():
        locked = connection.execute(_LOCK, (users,))
        present = connection.execute(_PRESENT, ([row.notification.id for row in rows],))
    inboxes = {user: Inbox(seq, unread, windows) for user, seq, unread, windows in locked}
    if len(inboxes) < len(users):
        # Two statements and a fresh lock: another batch may have made the same user a moment ago, and the rows
        # it wrote for the same events are seen only now.
        missing = [user for user in users if user not in inboxes]
        connection.execute(_NEW_USERS, (missing,))
        connection.execute(_NEW_INBOXES, (missing,))
        return lock(connection, rows)
    return inboxes, {id_ for (id_,) in present}


def write(
    connection: Connection, rows: list[Row], inboxes: dict[str, Inbox], use: Resources
) -> dict[str, list[UUID]]:
    """Everything the batch changes, in one trip."""
    by_id = {row.notification.id: row for row in rows}
    for inbox in inboxes.values():
        for group, grown in inbox.groups.items():
            for member in grown.leading:
                if member in by_id:
                    by_id[member].group = group
    deliveries = [
        (delivery_id(row.notification.id, channel), row, channel)
        for row in rows
        for channel in row.notification.open
    ]
    with connection.pipeline():
        move(connection, inboxes)
        connection.execute(_INSERT, columns(rows))
        write_groups(connection, inboxes, use)
        if deliveries:
            connection.execute(
                _DELIVER,
                (
                    RESEND_AFTER,
                    [id_ for id_, _, _ in deliveries],
                    [row.notification.id for _, row, _ in deliveries],
                    [row.notification.recipient for _, row, _ in deliveries],
                    [channel for _, _, channel in deliveries],
                    ["unrenderable" if row.error else None for _, row, _ in deliveries],
                ),
            )
        routed = Counter(row.notification.event_id for row in rows)
        connection.execute(_ROUTED, (list(routed), list(routed.values())))
    to_send: dict[str, list[UUID]] = defaultdict(list)
    for id_, row, channel in deliveries:
        if not row.error:
            to_send[channel].append(id_)
    return dict(to_send)


def move(connection: Connection, inboxes: dict[str, Inbox]) -> None:
    connection.execute(
        _MOVE_INBOXES,
        (
            list(inboxes),
            [inbox.seq for inbox in inboxes.values()],
            [inbox.unread for inbox in inboxes.values()],
            [_json(inbox.windows) for inbox in inboxes.values()],
        ),
    )


def columns(rows: list[Row]) -> tuple[list[Any], ...]:
    """The rows turned into _INSERT's arrays."""
    kinds = [row.notification for row in rows]
    return (
        [n.id for n in kinds],
        [n.event_id for n in kinds],
        [n.recipient for n in kinds],
        [row.seq for row in rows],
        [n.type for n in kinds],
        [row.category for row in rows],
        [n.importance for n in kinds],
        [row.actor for row in rows],
        [row.title for row in rows],
        [row.message for row in rows],
        [row.action_url for row in rows],
        [row.data for row in rows],
        [_json(n.closed) for n in kinds],
        [row.error for row in rows],
        [row.group for row in rows],
        [row.created_at for row in rows],
        [row.expires_at for row in rows],
    )


def write_groups(connection: Connection, inboxes: dict[str, Inbox], use: Resources) -> None:
    """Groups that ended, formed or grew: few in a batch, so a statement each."""
    if ended := [group for inbox in inboxes.values() for group in inbox.ended]:
        connection.execute(_CLOSE_GROUPS, (ended,))
    for user, inbox in inboxes.items():
        for group, grown in inbox.groups.items():
            n = grown.last.notification
            _, _, group_key = (n.window or "").partition("/")
            content = use.catalog.render_group(n.type, grown.count)
            if grown.leading:
                connection.execute(_FOLD, (group, grown.leading))
            connection.execute(_GROUP, (group, user, n.type, group_key, grown.count, n.id))
            connection.execute(
                _GROUP_ROW,
                (
                    group,
                    user,
                    grown.seq,
                    n.type,
                    grown.last.category,
                    n.importance,
                    content.title,
                    content.message,
                    content.action_url,
                    grown.count,
                    grown.leading,
                    grown.last.created_at,
                ),
            )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
