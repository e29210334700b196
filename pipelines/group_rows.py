"""Groups as fan_out writes them: within its transaction, under the locks of the recipients' inboxes."""

from psycopg import Connection

from pipelines.arrays import json
from pipelines.catalog import Catalog
from pipelines.inbox import Inbox

_CLOSE_GROUPS = "UPDATE notification_groups SET closed_at = now() WHERE id = ANY(%s) AND closed_at IS NULL"
_FOLD = """
UPDATE notifications n SET group_id = f.group_id FROM json_to_recordset(%s) AS f (id uuid, group_id uuid)
WHERE n.id = f.id
"""
_GROUPS = """
INSERT INTO notification_groups (id, user_id, type, group_key, count, last_notification_id)
SELECT id, user_id, type, group_key, group_count, last_notification_id FROM json_to_recordset(%s)
    AS g (id uuid, user_id text, type text, group_key text, group_count int, last_notification_id uuid)
ON CONFLICT (id) DO UPDATE SET count = excluded.count, last_notification_id = excluded.last_notification_id,
    updated_at = now()
"""
_GROUP_ROWS = """
INSERT INTO notifications (id, user_id, seq, type, category, importance, title, message, action_url, group_count,
    "leading", silent, created_at)
SELECT id, user_id, seq, type, category, importance, title, message, action_url, group_count, "leading", silent,
    created_at
FROM json_populate_recordset(NULL::notifications, %s)
ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, importance = excluded.importance,
    title = excluded.title, message = excluded.message,
    action_url = excluded.action_url, group_count = excluded.group_count, silent = excluded.silent,
    created_at = excluded.created_at
"""


def write_groups(connection: Connection, inboxes: dict[str, Inbox], catalog: Catalog) -> None:
    """Groups that ended, formed or grew."""
    if ended := [group for inbox in inboxes.values() for group in inbox.ended]:
        connection.execute(_CLOSE_GROUPS, (ended,))
    rows, folded = [], []
    for inbox in inboxes.values():
        for group, grown in inbox.groups.items():
            last, (_, _, key) = grown.last, grown.window.partition("/")
            said = catalog.render_group(last.type, grown.gathered())
            folded += [{"id": member, "group_id": group} for member in grown.leading]
            rows.append(
                {
                    "id": group,
                    "user_id": last.user_id,
                    "seq": grown.seq,
                    "type": last.type,
                    "category": last.category,
                    "importance": last.importance,
                    "title": said.title,
                    "message": said.message,
                    "action_url": said.action_url,
                    "group_key": key,
                    "group_count": grown.joined.total,
                    "silent": grown.silent,
                    "leading": f"{{{','.join(map(str, grown.leading))}}}",
                    "last_notification_id": last.id,
                    "created_at": last.created_at,
                }
            )
    if folded:
        connection.execute(_FOLD, (json(folded),))
    if rows:
        connection.execute(_GROUPS, (json(rows),))
        connection.execute(_GROUP_ROWS, (json(rows),))
