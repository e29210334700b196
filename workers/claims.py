"""Claiming: deliveries become this process's for a while, each with an attempt row, and are looked at once more.

In one statement, by Postgres' clock: whoever else claims the same finds it taken, and whoever dies leaves an
attempt that tells of it. Repeating is safe: what is claimed, or settled, is not found again. No connection is held
while the channel sends; `settle` is fenced by the number of the attempt.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import Connection
from psycopg.rows import args_row

from pipelines.arrays import array
from pipelines.catalog import Catalog
from pipelines.fan_out import RESEND_AFTER
from pipelines.preferences import Answer, Wish, resolve
from pipelines.quiet_hours import QuietHours, quiet_hours, until
from pipelines.timing import NOW
from schema.delivery import EXPIRED, HELD, SUPPRESSED, Parcel

UNCLAIMED = "state NOT IN ('sending', 'sent', 'digested', 'failed', 'dead', 'suppressed', 'expired')"
"""Pending, retrying or held; said so that it is looked up by id: `IN` is the condition of an index that holds the
whole backlog, and PostgreSQL, as long as it was not analyzed, would walk all of it."""
_CLAIM = f"""
WITH claimed AS (
    UPDATE deliveries SET state = 'sending', attempt = attempt + 1, next_attempt_at = now() + %(lease)s
    WHERE id = ANY(%(ids)s::uuid[]) AND {UNCLAIMED} AND next_attempt_at <= now() + %(early)s
        AND (state <> 'held' OR digest_due IS NULL)
    RETURNING id, attempt, attempt - replayed_after AS tries, notification_id, user_id, device_id, digest_id
), tried AS (
    INSERT INTO attempts (delivery_id, number, outcome, ended_at) SELECT id, attempt, 'sending', NULL FROM claimed
)"""
ALL_THERE_IS = """
SELECT c.id, c.attempt, c.tries, n.id, c.user_id, n.type, n.category, n.importance, n.title, n.message,
    n.action_url, n.data, n.actor, n.created_at, n.expires_at, n.read_at, g.id, coalesce(g.group_count, 1),
    g.title, g.message, g.action_url, g.read_at, coalesce(g.leading, '{}'), u.email, u.locale, v.id, v.kind,
    v.address, v.keys, coalesce(i.unread, 0), ARRAY[p.enabled, pc.enabled, pg.enabled],
    ARRAY[p.channels -> %(serves)s, pc.channels -> %(serves)s, pg.channels -> %(serves)s],
    o.user_id IS NOT NULL OR oc.user_id IS NOT NULL,
    s.reason, c.digest_id, e.cancelled_at IS NOT NULL,
    u.quiet_days, u.quiet_from, u.quiet_to, u.time_zone, now()
FROM claimed c
JOIN notifications n ON n.id = c.notification_id
LEFT JOIN notifications g ON g.id = n.group_id
LEFT JOIN events e ON e.id = n.event_id
LEFT JOIN users u ON u.id = c.user_id
LEFT JOIN devices v ON v.id = c.device_id AND v.user_id = c.user_id
LEFT JOIN inboxes i ON i.user_id = c.user_id
LEFT JOIN notification_preferences p ON p.user_id = c.user_id AND p.scope = 'type' AND p.type = n.type
LEFT JOIN notification_preferences pc ON pc.user_id = c.user_id AND pc.scope = 'category' AND pc.type = n.category
LEFT JOIN notification_preferences pg ON pg.user_id = c.user_id AND pg.scope = 'global' AND pg.type = ''
LEFT JOIN opt_outs o ON o.user_id = c.user_id AND o.channel = %(serves)s AND o.category = n.category
LEFT JOIN opt_outs oc ON oc.user_id = c.user_id AND oc.channel = %(serves)s AND oc.category = ''
LEFT JOIN suppressed_addresses s ON c.device_id IS NULL AND s.address = lower(u.email)
ORDER BY c.id
"""
"""To know of deliveries that a query names `claimed`."""


class Row(NamedTuple):
    """A claimed delivery, and everything that is known of it. `tries`: since it was replayed, with this one;
    `ends_at`: when it is no news any more, by the event or by its type; `enabled` and `wishes`: what the user said
    of type, category and everything; `digest`: the delivery that carries the digest it goes out with."""

    delivery: UUID
    attempt: int
    tries: int
    notification: UUID
    user: str
    type: str
    category: str
    importance: str
    title: str
    message: str
    action_url: str | None
    data: dict[str, Any]
    actor: str | None
    created_at: datetime
    expires_at: datetime | None
    read_at: datetime | None
    group: UUID | None
    group_count: int
    group_title: str | None
    group_message: str | None
    group_url: str | None
    group_read_at: datetime | None
    leading: list[UUID]
    email: str | None
    locale: str | None
    device: UUID | None
    kind: str | None
    address: str | None
    keys: dict[str, str] | None
    unread: int
    enabled: list[bool | None]
    wishes: list[Wish | None]
    opted_out: bool
    suppressed: str | None
    digest: UUID | None
    cancelled: bool | None
    quiet_days: list[int] | None
    quiet_from: time | None
    quiet_to: time | None
    time_zone: str | None
    now: datetime
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """Not sent, and never will be, or not for so many seconds: the state and why."""

    state: str
    reason: str
    wait: float = 0


class Claimed(NamedTuple):
    """A delivery that is this process's now: to be sent as `parcel`, or `decided` already."""

    row: Row
    parcel: Parcel | None
    decided: Decided | None


def claim(connection: Connection, channel: ModuleType, ids: Iterable[UUID], catalog: Catalog) -> list[Claimed]:
    """Those of the deliveries that nobody has claimed and nobody has settled, and whose time has come: a second
    message for one that is to wait changes nothing. (The clock sends what is due with a time a little ahead.)"""
    arguments = {
        "ids": array(ids),
        "lease": timedelta(seconds=channel.LEASE),
        "serves": channel.SERVES,
        "early": RESEND_AFTER,
    }
    rows = connection.cursor(row_factory=args_row(Row)).execute(_CLAIM + ALL_THERE_IS, arguments).fetchall()
    return [look(row, channel.SERVES, catalog) for row in rows]


def look(row: Row, serves: str, catalog: Catalog) -> Claimed:
    """Once more: whether it is still wanted, still news, and has an address."""
    kind = catalog.types.get(row.type)
    ends = [row.expires_at] if row.expires_at else []
    if kind and kind.time_to_live:
        ends.append(row.created_at + kind.time_to_live)
    row = row._replace(ends_at=min(ends, default=None))
    address = row.address if row.device or serves == "push" else row.email
    reason = None
    if row.importance != "critical":
        reason = wanted(row, serves, catalog).reason
    if row.cancelled:
        reason = reason or "cancelled"
    if row.read_at or row.group_read_at:
        reason = reason or "read"
    if not address:
        reason = reason or ("device_removed" if serves == "push" else "no_address")
    elif row.suppressed:
        reason = reason or f"address_suppressed: {row.suppressed}"
    if row.ends_at and row.ends_at <= row.now:
        return Claimed(row, None, Decided(EXPIRED, "expired"))
    if reason:
        return Claimed(row, None, Decided(SUPPRESSED, reason))
    if row.importance != "critical" and (quiet_to := until(hours(row), row.now)):
        return Claimed(row, None, Decided(HELD, "quiet_hours", (quiet_to - row.now).total_seconds()))
    return Claimed(row, parcel(row, serves, address or ""), None)


def wanted(row: Row, serves: str, catalog: Catalog) -> Answer:
    """What the user wants of it now, if it is not critical."""
    kind = catalog.types.get(row.type)
    return resolve(
        row.enabled,
        row.wishes,
        opted_out=row.opted_out,
        default=kind.channels[serves] if kind else True,
        timing=kind.timings.get(serves, NOW) if kind else NOW,
    )


def hours(row: Row) -> QuietHours | None:
    return quiet_hours(row.quiet_days, row.quiet_from, row.quiet_to, row.time_zone)


def parcel(row: Row, serves: str, address: str) -> Parcel:
    """What is sent of a group's member says what the group's row says. Only a mail of one that had a row of its
    own says what that said: it is one of several mails, while a push takes the place of those before it."""
    grouped = row.group_title is not None and (serves == "push" or row.notification not in row.leading)
    return Parcel(
        delivery=row.delivery,
        attempt=row.attempt,
        notification=row.notification,
        user=row.user,
        address=address,
        device=row.device,
        kind=row.kind or "",
        keys=row.keys,
        type=row.type,
        category=row.category,
        importance=row.importance,
        title=(row.group_title if grouped else row.title) or "",
        message=(row.group_message if grouped else row.message) or "",
        action_url=row.group_url if grouped else row.action_url,
        data=row.data,
        actor=row.actor,
        created_at=row.created_at,
        expires_at=row.ends_at,
        unread=row.unread,
        group=row.group,
        grouped=grouped,
        count=row.group_count,
        replaces=tuple(row.leading),
        locale=row.locale,
    )
