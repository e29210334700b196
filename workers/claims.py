"""Claiming: deliveries become this process's for a while, each with an attempt row, and are looked at once more.

In one statement, by Postgres' clock: whoever else claims the same finds it taken, and whoever dies leaves an
attempt that tells of it. Repeating is safe: what is claimed, or settled, is not found again. No connection is held
while the channel sends; `settle` is fenced by the number of the attempt.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import Connection
from psycopg.rows import args_row

from pipelines.arrays import array
from pipelines.catalog import Catalog
from pipelines.fan_out import RESEND_AFTER
from schema.delivery import EXPIRED, SUPPRESSED, Parcel

_UNCLAIMED = "state NOT IN ('sending', 'sent', 'failed', 'dead', 'suppressed', 'expired')"
"""Pending or retrying; said so that it is looked up by id: `IN` is the condition of an index that holds the whole
backlog, and PostgreSQL, as long as it was not analyzed, would walk all of it."""
_CLAIM = f"""
WITH claimed AS (
    UPDATE deliveries SET state = 'sending', attempt = attempt + 1, next_attempt_at = now() + %(lease)s
    WHERE id = ANY(%(ids)s::uuid[]) AND {_UNCLAIMED} AND next_attempt_at <= now() + %(early)s
    RETURNING id, attempt, attempt - replayed_after AS tries, notification_id, user_id, device_id
), tried AS (
    INSERT INTO attempts (delivery_id, number, outcome, ended_at) SELECT id, attempt, 'sending', NULL FROM claimed
)
SELECT c.id, c.attempt, c.tries, n.id, c.user_id, n.type, n.category, n.importance, n.title, n.message,
    n.action_url, n.data, n.actor, n.created_at, n.expires_at, n.read_at, g.id, coalesce(g.group_count, 1),
    g.title, g.message, g.action_url, g.read_at, coalesce(g.leading, '{{}}'), u.email, u.locale, v.id, v.kind,
    v.address, v.keys, coalesce(i.unread, 0), p.enabled, p.channels ->> %(serves)s, o.user_id IS NOT NULL,
    s.reason, now()
FROM claimed c
JOIN notifications n ON n.id = c.notification_id
LEFT JOIN notifications g ON g.id = n.group_id
LEFT JOIN users u ON u.id = c.user_id
LEFT JOIN devices v ON v.id = c.device_id AND v.user_id = c.user_id
LEFT JOIN inboxes i ON i.user_id = c.user_id
LEFT JOIN notification_preferences p ON p.user_id = c.user_id AND p.type = n.type
LEFT JOIN opt_outs o ON o.user_id = c.user_id AND o.channel = %(serves)s AND o.category = n.category
LEFT JOIN suppressed_addresses s ON c.device_id IS NULL AND s.address = lower(u.email)
ORDER BY c.id
"""


class Row(NamedTuple):
    """A claimed delivery, and everything that is known of it. `tries`: since it was replayed, with this one;
    `ends_at`: when it is no news any more, by the event or by its type."""

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
    enabled: bool | None
    preference: str | None
    opted_out: bool
    suppressed: str | None
    now: datetime
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """Not sent, and never will be: the state and why."""

    state: str
    reason: str


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
    rows = connection.cursor(row_factory=args_row(Row)).execute(_CLAIM, arguments).fetchall()
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
        if row.opted_out:
            reason = "opted_out"
        elif row.enabled is False:
            reason = "muted"
        elif row.preference == "false":
            reason = "preference"
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
    return Claimed(row, parcel(row, serves, address or ""), None)


def parcel(row: Row, serves: str, address: str) -> Parcel:
    """A push of a group's member says what the group's row says: it takes the place of those before it."""
    grouped = serves == "push" and row.group_title is not None
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
        count=row.group_count,
        replaces=tuple(row.leading),
        locale=row.locale,
    )


_SETTLE = """
WITH told AS (
    SELECT * FROM unnest(%(id)s::uuid[], %(attempt)s::int[], %(type)s::text[], %(outcome)s::text[],
        %(state)s::text[], %(reason)s::text[], %(receipt)s::text[], %(said)s::text[], %(wait)s::interval[],
        %(counts)s::bool[], %(gone)s::text[], %(device)s::uuid[])
        AS t (id, attempt, type, outcome, state, reason, receipt, said, wait, counts, gone, device)
), settled AS (
    UPDATE deliveries d
    SET state = t.state, reason = t.reason, receipt = coalesce(t.receipt, d.receipt),
        attempt = d.attempt - CASE WHEN t.counts THEN 0 ELSE 1 END, next_attempt_at = now() + t.wait,
        settled_at = CASE WHEN t.state = 'retrying' THEN NULL ELSE now() END
    FROM told t
    WHERE d.id = t.id AND d.attempt = t.attempt AND d.id = ANY(%(id)s::uuid[])
        AND d.state NOT IN ('pending', 'sent', 'failed', 'dead', 'suppressed', 'expired')
        AND (d.state = 'sending' OR t.state = 'sent') -- sent is sent, though its lease ended meanwhile
    RETURNING d.id, d.state, t.type, t.outcome
), tried AS ( -- also one that came too late: then it tells of what happened all the same
    UPDATE attempts a SET outcome = t.outcome, reason = t.reason, said = nullif(t.said, ''), ended_at = now()
    FROM told t WHERE a.delivery_id = t.id AND a.number = t.attempt AND t.counts
), untried AS (
    DELETE FROM attempts a USING told t JOIN settled s USING (id)
    WHERE a.delivery_id = t.id AND a.number = t.attempt AND NOT t.counts
), removed AS (
    DELETE FROM devices v USING told t
    WHERE v.id = t.device AND v.address = t.gone AND v.refreshed_at <= %(claimed_at)s
), suppressed AS (
    INSERT INTO suppressed_addresses (address, reason)
    SELECT DISTINCT ON (lower(gone)) lower(gone), reason FROM told
    WHERE gone IS NOT NULL AND device IS NULL ORDER BY 1 ON CONFLICT DO NOTHING
)
INSERT INTO notification_analytics (type, event, hour, shard, count)
SELECT type, event, date_trunc('hour', now()), pg_backend_pid() %% 8, count(*) FROM (
    SELECT type, 'sent' AS event FROM settled WHERE state = 'sent'
    UNION ALL SELECT type, 'possible_duplicate' FROM settled WHERE outcome = 'unknown'
) AS c GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (type, event, hour, shard) DO UPDATE SET count = notification_analytics.count + excluded.count
"""


class Settled(NamedTuple):
    """What one try made of a delivery, by the columns of _SETTLE. `counts`: whether it was a try; `gone`: the
    address that is nobody's any more."""

    id: UUID
    attempt: int
    type: str
    outcome: str
    state: str
    reason: str | None = None
    receipt: str | None = None
    said: str = ""
    wait: str = "0"
    counts: bool = True
    gone: str | None = None
    device: UUID | None = None


def settle(connection: Connection, settled: Sequence[Settled], claimed_at: datetime) -> None:
    """Records what became of claimed deliveries, in one trip. One that another process claimed meanwhile, because
    the lease had ended, stays that one's; the attempt is recorded."""
    columns = dict(zip(Settled._fields, map(array, zip(*settled, strict=True)), strict=True))
    connection.execute(_SETTLE, columns | {"claimed_at": claimed_at})


_POSTPONE = f"""
UPDATE deliveries SET state = 'retrying', reason = %s, next_attempt_at = now() + %s * (1 + random() / 5)
WHERE id = ANY(%s::uuid[]) AND {_UNCLAIMED} AND next_attempt_at <= now() + %s
"""


def postpone(connection: Connection, ids: Sequence[UUID], seconds: float) -> None:
    """No try is spent on them: their provider takes nothing at the moment."""
    connection.execute(_POSTPONE, ("provider_away", timedelta(seconds=seconds), array(ids), RESEND_AFTER))
