"""What happens to a delivery, once for all channels: read, send, settle; in batches, states as in
schema/delivery.py.

Consumes   schema.wire.Deliveries, on the queue `deliver-CHANNEL`
Produces   the channel's sends; settled rows, attempts that failed, counts
Repeats    safely: what is settled is not read again, and settling is fenced by the attempt number
Fails as   an outcome, which settles the delivery as retrying, failed or dead; an exception is a bug
"""

import random
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID

import dramatiq
import msgspec
from psycopg import Connection
from psycopg.rows import dict_row

import workers.broker  # noqa: F401  (the broker must be set before an actor is declared)
from schema.delivery import DEAD, FAILED, RETRYING, SENT, Later, Never, Outcome, Sent
from schema.wire import Deliveries, Group, InboxItem, Publication
from workers.channels import CHANNELS, web
from workers.resources import pool, redis_client

BATCH = 500
"""Deliveries in one message."""

_READ = """
SELECT d.id AS delivery, d.attempt, told.type AS told_type, i.version, i.unread, n.*
FROM deliveries d
JOIN notifications told ON told.id = d.notification_id
JOIN notifications n ON n.id = coalesce(told.group_id, told.id)
JOIN inboxes i ON i.user_id = d.user_id
WHERE d.id = ANY(%s) AND d.state IN ('pending', 'retrying')
ORDER BY n.user_id, n.seq
"""
_SETTLE = """
WITH settled AS (
    UPDATE deliveries d
    SET state = o.state, reason = o.reason, receipt = o.receipt, attempt = d.attempt + 1,
        next_attempt_at = now() + o.wait, settled_at = CASE WHEN o.state = 'retrying' THEN NULL ELSE now() END
    FROM unnest(%s::uuid[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::interval[])
        AS o (id, attempt, type, state, reason, receipt, wait)
    WHERE d.id = o.id AND d.attempt = o.attempt AND d.state IN ('pending', 'retrying')
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

Deliver = dramatiq.Actor[[Any], None]


def deliver(channel: ModuleType, ids: Sequence[UUID]) -> None:
    """Sends deliveries that are still open. No connection is held while the channel sends."""
    with pool().connection() as connection:
        rows = connection.cursor(row_factory=dict_row).execute(_READ, (list(ids),)).fetchall()
    if not rows:
        return
    outcomes = channel.send([item(row) for row in rows], redis_client())
    with pool().connection() as connection:
        settle(connection, channel.SCHEDULE, rows, outcomes)


def item(row: dict[str, Any]) -> web.Item:
    """What the web channel needs of a row."""
    group = Group(row["group_count"], row["leading"]) if row["group_count"] else None
    shown = InboxItem(
        id=row["id"],
        seq=row["seq"],
        type=row["type"],
        category=row["category"],
        importance=row["importance"],
        title=row["title"],
        message=row["message"],
        data=row["data"],
        action_url=row["action_url"],
        created_at=row["created_at"],
        read=row["read_at"] is not None,
        read_at=row["read_at"],
        clicked_at=row["clicked_at"],
        archived_at=row["archived_at"],
        group=group,
    )
    return web.Item(row["user_id"], Publication("notification", row["version"], row["unread"], shown))


def settle(
    connection: Connection,
    schedule: Sequence[float],
    rows: Sequence[dict[str, Any]],
    outcomes: Iterable[Outcome],
) -> None:
    """Records the outcomes in one trip. A delivery that another worker settled meanwhile stays as it is."""
    settled = [judge(schedule, row["attempt"], outcome) for row, outcome in zip(rows, outcomes, strict=True)]
    connection.execute(
        _SETTLE,
        (
            [row["delivery"] for row in rows],
            [row["attempt"] for row in rows],
            [row["told_type"] for row in rows],
            [s.state for s in settled],
            [s.reason for s in settled],
            [s.receipt for s in settled],
            [s.wait for s in settled],
        ),
    )


class Settled(NamedTuple):
    state: str
    reason: str | None = None
    receipt: str | None = None
    wait: timedelta = timedelta()


def judge(schedule: Sequence[float], attempt: int, outcome: Outcome) -> Settled:
    """What an outcome makes of a delivery that had `attempt` tries before this one."""
    match outcome:
        case Sent(receipt):
            return Settled(SENT, receipt=receipt)
        case Never(reason):
            return Settled(FAILED, reason)
        case Later(reason) if attempt < len(schedule):
            return Settled(RETRYING, reason, wait=backoff(schedule, attempt))
        case Later(reason):
            return Settled(DEAD, reason)


def backoff(schedule: Sequence[float], attempt: int) -> timedelta:
    """How long to wait after the try that followed `attempt` earlier ones: the schedule's entry, ± 20 %."""
    seconds = schedule[min(attempt, len(schedule) - 1)]
    return timedelta(seconds=seconds * random.uniform(0.8, 1.2))  # noqa: S311  (spreads load, guards nothing)


def declare(channel: ModuleType) -> Deliver:
    """The actor of a channel; its name and queue are wire names."""

    def hop(message: dict[str, Any]) -> None:
        deliver(channel, msgspec.convert(message, Deliveries).deliveries)

    return dramatiq.actor(actor_name=f"deliver_{channel.NAME}", queue_name=f"deliver-{channel.NAME}")(hop)


ACTORS: dict[str, Deliver] = {channel.NAME: declare(channel) for channel in CHANNELS}


def send_deliveries(channel: str, ids: Sequence[UUID]) -> None:
    """Sends deliveries to their channel's workers, up to 500 a message."""
    for begin in range(0, len(ids), BATCH):
        ACTORS[channel].send(Deliveries(list(ids[begin : begin + BATCH])))
