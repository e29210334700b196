"""Reading an inbox: pages for REST, and what live connections need to catch up.

A row is shown when it has a seq, is no member of a group and is not archived. Every list is a keyset over one
partial index, and nothing is counted: the unread count is a column.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from msgspec import UNSET
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from pipelines.quiet_hours import quiet_hours, until
from schema.wire import Group, InboxItem

Db = AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Db]

SHOWN = "seq IS NOT NULL AND group_id IS NULL AND archived_at IS NULL"
_COLUMNS = """
n.id, n.seq, n.type, n.category, n.importance, coalesce(n.title, ''), coalesce(n.message, ''), n.data,
n.action_url, n.created_at, n.read_at, n.clicked_at, n.archived_at, n.group_count, n.leading
"""
_STATE = "SELECT seq, version, unread FROM inboxes WHERE user_id = %s"
_STATES = "SELECT user_id, seq, version, unread FROM inboxes WHERE user_id = ANY(%s)"
_AFTER = f"""
SELECT w.user_id, n.*, u.quiet_days, u.quiet_from, u.quiet_to, u.time_zone, now()
FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS w (user_id, after, upto)
CROSS JOIN LATERAL (
    SELECT {_COLUMNS}, n.silent FROM notifications n
    WHERE n.user_id = w.user_id AND n.seq > w.after AND n.seq <= w.upto AND {SHOWN}
    ORDER BY n.seq LIMIT %s
) n
LEFT JOIN users u ON u.id = w.user_id AND u.quiet_from IS NOT NULL
ORDER BY w.user_id, n.seq
"""
_PAGE = f"SELECT {_COLUMNS} FROM notifications n WHERE n.user_id = %(user)s AND {SHOWN}"
_GROUP_SEQ = "SELECT seq FROM notifications WHERE id = %s AND user_id = %s AND group_count IS NOT NULL"
_MEMBERS = f"""
SELECT {_COLUMNS} FROM notifications n
WHERE n.group_id = %(group)s AND n.user_id = %(user)s AND n.archived_at IS NULL
"""


class State(NamedTuple):
    """Where an inbox stands; all 0 for a user who never had a notification."""

    seq: int = 0
    version: int = 0
    unread: int = 0


def item(row: Sequence[Any], seq: int | None = None) -> InboxItem:
    """A row of _COLUMNS. A member of a group has no place of its own: it is given the group's, `seq`."""
    read_at: datetime | None = row[10]
    return InboxItem(
        id=row[0],
        seq=row[1] if seq is None else seq,
        type=row[2],
        category=row[3],
        importance=row[4],
        title=row[5],
        message=row[6],
        data=row[7],
        action_url=row[8],
        created_at=row[9],
        read=read_at is not None,
        read_at=read_at,
        clicked_at=row[11],
        archived_at=row[12],
        group=Group(row[13], row[14] or []) if row[13] is not None else None,
    )


async def state(db: Db, user: str) -> State:
    row = await (await db.execute(_STATE, (user,))).fetchone()
    return State(*row) if row else State()


async def states(db: Db, users: Sequence[str]) -> dict[str, State]:
    """Of every user asked for."""
    found = {user: State() for user in users}
    async for user, *numbers in await db.execute(_STATES, (list(users),)):
        found[user] = State(*numbers)
    return found


async def after(db: Db, places: Sequence[tuple[str, int, int]], window: int) -> list[tuple[str, InboxItem]]:
    """Shown rows of each (user, after, up to), oldest first; one more than `window` of a user who has more. They
    are about to be told: silently those that were to be told so, and all if the user's hours are quiet now."""
    users, begins, ends = zip(*places, strict=True) if places else ((), (), ())
    rows = await db.execute(_AFTER, (list(users), list(begins), list(ends), window + 1))
    found, quiet = [], dict[str, bool]()
    async for user, *columns, silent, days, begin, end, zone, now in rows:
        if user not in quiet:
            quiet[user] = until(quiet_hours(days, begin, end, zone), now) is not None
        told = item(columns)
        told.silent = bool(silent) or (quiet[user] and told.importance != "critical") or UNSET
        found.append((user, told))
    return found


async def page(
    db: Db, user: str, limit: int, before: int | None, unread: bool | None, kind: str | None
) -> tuple[list[InboxItem], int | None]:
    """Newest first; and the seq to continue before, or None at the end."""
    query = _PAGE + _conditions(unread, kind) + (" AND n.seq < %(before)s" if before is not None else "")
    values = {"user": user, "before": before, "type": kind, "limit": limit + 1}
    rows = await (await db.execute(query + " ORDER BY n.seq DESC LIMIT %(limit)s", values)).fetchall()
    items = [item(row) for row in rows[:limit]]
    return items, items[-1].seq if len(rows) > limit else None


async def members(
    db: Db, user: str, group: UUID, limit: int, before: UUID | None, unread: bool | None, kind: str | None
) -> tuple[list[InboxItem], UUID | None] | None:
    """The members of a group, newest first, and the id to continue before; None when it is no group of the
    user's."""
    place = await (await db.execute(_GROUP_SEQ, (group, user))).fetchone()
    if place is None:
        return None
    query = _MEMBERS + _conditions(unread, kind) + (" AND n.id < %(before)s" if before is not None else "")
    values = {"group": group, "user": user, "before": before, "type": kind, "limit": limit + 1}
    rows = await (await db.execute(query + " ORDER BY n.id DESC LIMIT %(limit)s", values)).fetchall()
    items = [item(row, place[0]) for row in rows[:limit]]
    return items, items[-1].id if len(rows) > limit else None


def _conditions(unread: bool | None, kind: str | None) -> str:
    read = {None: "", True: " AND n.read_at IS NULL", False: " AND n.read_at IS NOT NULL"}[unread]
    return read + (" AND n.type = %(type)s" if kind is not None else "")
