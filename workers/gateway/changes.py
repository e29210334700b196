"""Changing an inbox: read, clicked, archived, all read.

Each change is one transaction that locks the inbox first, so seq and version follow the order of commits; and it
moves the unread count by the rows it really changed. Repeating one changes nothing and publishes nothing.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal
from uuid import UUID

import msgspec
from psycopg.types.json import Jsonb
from redis.asyncio import Redis
from redis.exceptions import RedisError

from pipelines.windows import forget
from schema.wire import Publication, user_channel
from workers import log
from workers.gateway.inbox import SHOWN, Db, Pool
from workers.gateway.refusal import unknown

Verb = Literal["read", "clicked", "archive"]

_LOCK = "SELECT unread, windows FROM inboxes WHERE user_id = %s FOR UPDATE"
_ROW = f"""
SELECT type, {SHOWN}, group_count IS NOT NULL, read_at IS NULL, clicked_at IS NULL, archived_at IS NULL
FROM notifications WHERE id = %s AND user_id = %s
"""
_CHANGE = """
UPDATE notifications SET read_at = coalesce(read_at, now()),
    clicked_at = CASE WHEN %(clicked)s THEN coalesce(clicked_at, now()) ELSE clicked_at END,
    archived_at = CASE WHEN %(archive)s THEN coalesce(archived_at, now()) ELSE archived_at END
WHERE id = %(id)s
"""
_READ_MEMBERS = "UPDATE notifications SET read_at = now() WHERE group_id = ANY(%s) AND read_at IS NULL"
_CLOSE_GROUP = "UPDATE notification_groups SET closed_at = now() WHERE id = %s AND closed_at IS NULL"
_CLOSE_GROUPS = "UPDATE notification_groups SET closed_at = now() WHERE user_id = %s AND closed_at IS NULL"
_READ_ALL = f"""
UPDATE notifications SET read_at = now() WHERE user_id = %s AND {SHOWN} AND read_at IS NULL
RETURNING id, type, group_count IS NOT NULL
"""
_MOVE = """
UPDATE inboxes SET unread = %s, version = version + 1, windows = %s WHERE user_id = %s RETURNING version
"""
_ANALYTICS = """
INSERT INTO notification_analytics (type, event, hour, shard, count)
SELECT type, event, date_trunc('hour', now()), pg_backend_pid() %% 8, count
FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS a (type, event, count) ORDER BY type, event
ON CONFLICT (type, event, hour, shard) DO UPDATE SET count = notification_analytics.count + excluded.count
"""


class Changes:
    """Each returns the unread count after it."""

    def __init__(self, pool: Pool, redis: Redis) -> None:
        self._pool, self._redis = pool, redis

    async def change(self, user: str, id_: UUID, verb: Verb) -> int:
        """One row: clicking or archiving it also reads it, and reading a group reads its members. Raises Refused
        for a row that is not this user's."""
        async with self._pool.connection() as db, db.transaction():
            unread, windows = await _lock(db, user)
            row = await (await db.execute(_ROW, (id_, user))).fetchone()
            if row is None:
                raise unknown()
            kind, shown, is_group, is_unread, unclicked, unarchived = row
            clicks, archives = verb == "clicked" and unclicked, verb == "archive" and unarchived
            if not (is_unread or clicks or archives):
                return unread
            await db.execute(_CHANGE, {"id": id_, "clicked": clicks, "archive": archives})
            if is_group:
                await db.execute(_READ_MEMBERS, ([id_],))
                await db.execute(_CLOSE_GROUP, (id_,))
            await _count(db, [(kind, "read")] * is_unread + [(kind, "clicked")] * clicks)
            if not (is_unread or archives):
                return unread
            if shown and is_unread:
                unread -= 1
            version = await _move(db, user, unread, forget(windows, [id_]))
        change = Publication("archived" if archives else "read", version, unread, ids=[id_])
        await self._publish(user, change)
        return unread

    async def read_all(self, user: str) -> int:
        """Every row that is shown, and the members of groups."""
        async with self._pool.connection() as db, db.transaction():
            unread, _ = await _lock(db, user)
            rows = await (await db.execute(_READ_ALL, (user,))).fetchall()
            if not rows:
                return unread
            await db.execute(_READ_MEMBERS, ([id_ for id_, _, is_group in rows if is_group],))
            await db.execute(_CLOSE_GROUPS, (user,))
            await _count(db, [(kind, "read") for _, kind, _ in rows])
            version = await _move(db, user, 0, {})
        await self._publish(user, Publication("read", version, 0))
        return 0

    async def _publish(self, user: str, publication: Publication) -> None:
        try:
            await self._redis.publish(user_channel(user), msgspec.json.encode(publication))
        except RedisError as error:  # the gateways' comparison with Postgres finds it
            log.logger().warning("change_not_published", error=type(error).__name__)


async def _lock(db: Db, user: str) -> tuple[int, dict[str, Any]]:
    """The unread count and windows of an inbox, locked until the transaction ends. Without an inbox there is
    nothing to change."""
    row = await (await db.execute(_LOCK, (user,))).fetchone()
    return (row[0], row[1]) if row else (0, {})


async def _move(db: Db, user: str, unread: int, windows: dict[str, Any]) -> int:
    row = await (await db.execute(_MOVE, (unread, Jsonb(windows), user))).fetchone()
    return int(row[0]) if row else 0


async def _count(db: Db, events: Iterable[tuple[str, str]]) -> None:
    """Adds to the hour's sums: (type, "read" | "clicked") for each notification."""
    sums = Counter(events)
    kinds = [kind for kind, _ in sums]
    await db.execute(_ANALYTICS, (kinds, [event for _, event in sums], list(sums.values())))
