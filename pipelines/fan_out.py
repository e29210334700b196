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

from pipelines.inbox import Content, Inbox, Row, compose, place
from pipelines.stage import Resources
from schema.identity import delivery_id
from schema.notification import Notification

UNRENDERABLE = "unrenderable"
RESEND_AFTER = timedelta(seconds=15)
"""A delivery still pending after this long lost its message: the clock sends it again."""

# A batch travels as one JSON parameter: Postgres reads it faster than the driver writes arrays.
_CONTENT = """
SELECT id, data::text, actor, expires_at, now() FROM events
WHERE id = ANY(ARRAY(SELECT json_array_elements_text(%s)))
"""
_LOCK = """
SELECT user_id, seq, unread, windows FROM inboxes
WHERE user_id = ANY(ARRAY(SELECT json_array_elements_text(%s))) ORDER BY user_id FOR UPDATE
"""
_PRESENT = "SELECT id FROM notifications WHERE id = ANY(ARRAY(SELECT json_array_elements_text(%s)::uuid))"
_NEW_USERS = "INSERT INTO users (id) SELECT json_array_elements_text(%s) ORDER BY 1 ON CONFLICT DO NOTHING"
_NEW_INBOXES = (
    "INSERT INTO inboxes (user_id) SELECT json_array_elements_text(%s) ORDER BY 1 ON CONFLICT DO NOTHING"
)
_MOVE_INBOXES = """
UPDATE inboxes i SET seq = m.seq, unread = m.unread, version = version + 1, windows = m.windows
FROM json_to_recordset(%s) AS m (user_id text, seq bigint, unread int, windows jsonb)
WHERE i.user_id = m.user_id
"""
_INSERT = """
INSERT INTO notifications (id, event_id, user_id, seq, type, category, importance, actor, title, message,
    action_url, data, closed, error, group_id, created_at, expires_at)
SELECT id, event_id, user_id, seq, type, category, importance, actor, title, message,
    action_url, data, closed, error, group_id, created_at, expires_at
FROM json_populate_recordset(NULL::notifications, %s)
"""
_DELIVER = """
INSERT INTO deliveries (id, notification_id, user_id, channel, state, reason, next_attempt_at, settled_at)
SELECT id, notification_id, user_id, channel, CASE WHEN reason IS NULL THEN 'pending' ELSE 'failed' END, reason,
    now() + %s, CASE WHEN reason IS NULL THEN NULL ELSE now() END
FROM json_to_recordset(%s) AS d (id uuid, notification_id uuid, user_id text, channel text, reason text)
"""
_ROUTED = """
UPDATE events e SET routed_count = routed_count + r.value::int FROM json_each_text(%s) AS r WHERE e.id = r.key
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
VALUES (%(id)s, %(user_id)s, %(seq)s, %(type)s, %(category)s, %(importance)s, %(title)s, %(message)s,
    %(action_url)s, %(count)s, %(folded)s, %(created_at)s)
ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, importance = excluded.importance,
    title = excluded.title, message = excluded.message,
    action_url = excluded.action_url, group_count = excluded.group_count, created_at = excluded.created_at
"""


class Delivery(msgspec.Struct):
    """A row about to be written to `deliveries`, by its columns; with a reason it has failed already."""

    id: UUID
    notification_id: UUID
    user_id: str
    channel: str
    reason: str | None


def fan_out(batch: list[Notification], use: Resources) -> dict[str, list[UUID]]:
    """Writes the batch; returns the deliveries to send, by channel (none for what was written before)."""
    with use.pool.connection() as connection:
        contents = read_contents(connection, {n.event_id for n in batch})
    composed = [compose(n, contents[n.event_id], use.catalog) for n in batch if n.event_id in contents]
    if not composed:
        return {}
    with use.pool.connection() as connection:
        inboxes, present = lock(connection, [row for _, row in composed])
        fresh = {row.id: (n, row) for n, row in composed if row.id not in present}
        if not fresh:
            return {}
        for n, row in fresh.values():
            place(n, row, inboxes[row.user_id], use.catalog)
        deliveries = [
            Delivery(
                delivery_id(row.id, channel), row.id, row.user_id, channel, UNRENDERABLE if row.error else None
            )
            for n, row in fresh.values()
            for channel in n.open
        ]
        write(connection, {id_: row for id_, (_, row) in fresh.items()}, deliveries, inboxes, use)
    to_send: dict[str, list[UUID]] = defaultdict(list)
    for delivery in deliveries:
        if not delivery.reason:
            to_send[delivery.channel].append(delivery.id)
    return dict(to_send)


def read_contents(connection: Connection, events: set[str]) -> dict[str, Content]:
    """By event; one that is gone (erased, pruned) is left out."""
    return {
        id_: Content(msgspec.Raw(data.encode()), msgspec.json.decode(data), actor, expires_at, now)
        for id_, data, actor, expires_at, now in connection.execute(_CONTENT, (_json(events),))
    }


def lock(connection: Connection, rows: list[Row]) -> tuple[dict[str, Inbox], set[UUID]]:
    """Locks the recipients' inboxes, in order of their ids so that batches never deadlock, and finds what is
    already written. A recipient nobody knew gets a user and an inbox."""
    users = {row.user_id for row in rows}
    with connection.pipeline():
        locked = connection.execute(_LOCK, (_json(users),))
        present = connection.execute(_PRESENT, (_json([row.id for row in rows]),))
    inboxes = {user: Inbox(seq, unread, windows) for user, seq, unread, windows in locked}
    if missing := users - inboxes.keys():
        # Made, then locked and looked at afresh: another batch may have made the same user a moment ago, and
        # what it wrote for the same events is seen only now.
        connection.execute(_NEW_USERS, (_json(missing),))
        connection.execute(_NEW_INBOXES, (_json(missing),))
        return lock(connection, rows)
    return inboxes, {id_ for (id_,) in present}


def write(
    connection: Connection,
    rows: dict[UUID, Row],
    deliveries: list[Delivery],
    inboxes: dict[str, Inbox],
    use: Resources,
) -> None:
    """Everything the batch changes, in one trip."""
    for inbox in inboxes.values():
        for group, grown in inbox.groups.items():
            for member in grown.leading:
                if member in rows:
                    rows[member].group_id = group
    moved = [
        {"user_id": user, "seq": inbox.seq, "unread": inbox.unread, "windows": inbox.windows}
        for user, inbox in inboxes.items()
    ]
    with connection.pipeline():
        connection.execute(_MOVE_INBOXES, (_json(moved),))
        connection.execute(_INSERT, (_json(list(rows.values())),))
        write_groups(connection, inboxes, use)
        connection.execute(_DELIVER, (RESEND_AFTER, _json(deliveries)))
        connection.execute(_ROUTED, (_json(Counter(row.event_id for row in rows.values())),))


def write_groups(connection: Connection, inboxes: dict[str, Inbox], use: Resources) -> None:
    """Groups that ended, formed or grew: few in a batch, so a statement each."""
    if ended := [group for inbox in inboxes.values() for group in inbox.ended]:
        connection.execute(_CLOSE_GROUPS, (ended,))
    for user, inbox in inboxes.items():
        for group, grown in inbox.groups.items():
            last, (_, _, key) = grown.last, grown.window.partition("/")
            said = use.catalog.render_group(last.type, grown.count)
            if grown.leading:
                connection.execute(_FOLD, (group, grown.leading))
            connection.execute(_GROUP, (group, user, last.type, key, grown.count, last.id))
            connection.execute(
                _GROUP_ROW,
                {
                    "id": group,
                    "user_id": user,
                    "seq": grown.seq,
                    "type": last.type,
                    "category": last.category,
                    "importance": last.importance,
                    "title": said.title,
                    "message": said.message,
                    "action_url": said.action_url,
                    "count": grown.count,
                    "folded": grown.leading,
                    "created_at": last.created_at,
                },
            )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
