"""Deliveries whose time has come: held ones, retries, those whose message was lost, and those whose process died.
Duties of the clock (workers/clock.py).
"""

from types import ModuleType

from pipelines.fan_out import RESEND_AFTER
from workers.channels import CHANNELS
from workers.deliver import send_deliveries
from workers.queues import ENOUGH, backlog, delivery_queue, waiting_since
from workers.resources import pool, redis_client

ROUND = 1000
"""Rows that a duty takes in one round."""

_DUE = """
SELECT name FROM unnest(%s::text[]) AS name
WHERE EXISTS (SELECT FROM deliveries WHERE channel = name AND {} AND next_attempt_at <= now())
"""
"""Channels with something due: a second in which nothing is costs one look."""
_WAITING = _DUE.format("state IN ('pending', 'retrying', 'held')")
_LEASED = _DUE.format("state = 'sending'")
_UNSENT = """
UPDATE deliveries SET next_attempt_at = now() + %(after)s WHERE id IN (
    SELECT id FROM deliveries
    WHERE state IN ('pending', 'retrying', 'held') AND next_attempt_at <= now() AND channel = %(channel)s
        AND (state <> 'pending'
            OR created_at < coalesce(to_timestamp(%(waiting_since)s / 1000.0), now()) - %(after)s)
    ORDER BY next_attempt_at LIMIT %(round)s FOR UPDATE SKIP LOCKED
) RETURNING id
"""
_END_LEASES = """
WITH ended AS (
    UPDATE deliveries d SET reason = 'no_word', next_attempt_at = now(),
        state = CASE WHEN attempt - replayed_after > %(tries)s THEN 'dead' ELSE 'retrying' END,
        settled_at = CASE WHEN attempt - replayed_after > %(tries)s THEN now() END
    WHERE id IN (
        SELECT id FROM deliveries WHERE state = 'sending' AND next_attempt_at <= now() AND channel = %(channel)s
        ORDER BY next_attempt_at LIMIT %(round)s FOR UPDATE SKIP LOCKED
    ) RETURNING id, attempt, notification_id
), tried AS (
    UPDATE attempts a SET outcome = 'unknown', reason = 'no_word', ended_at = now()
    FROM ended e WHERE a.delivery_id = e.id AND a.number = e.attempt
), counted AS (
    INSERT INTO notification_analytics (type, event, hour, shard, count)
    SELECT n.type, 'possible_duplicate', date_trunc('hour', now()), pg_backend_pid() %% 8, count(*)
    FROM ended e JOIN notifications n ON n.id = e.notification_id GROUP BY n.type ORDER BY n.type
    ON CONFLICT (type, event, hour, shard) DO UPDATE SET count = notification_analytics.count + excluded.count
)
SELECT id FROM ended
"""


def channels_with(query: str) -> list[ModuleType]:
    with pool().connection() as connection:
        names = {name for (name,) in connection.execute(query, ([channel.NAME for channel in CHANNELS],))}
    return [channel for channel in CHANNELS if channel.NAME in names]


def end_leases() -> int:
    """Deliveries whose process died while it sent them, or was too late: whether the provider has them nobody
    knows, so they count as possible duplicates, and are tried again."""
    ended = 0
    for channel in channels_with(_LEASED):
        arguments = {"channel": channel.NAME, "tries": len(channel.SCHEDULE), "round": ROUND}
        with pool().connection() as connection:
            ended += connection.execute(_END_LEASES, arguments).rowcount
    return ended


def send_due_deliveries() -> int:
    """Sends deliveries whose time has come: held ones, retries, and those whose message was lost. While a channel
    has enough waiting in its queue, they wait where they are."""
    sent = 0
    for channel in channels_with(_WAITING):
        if backlog(redis_client(), delivery_queue(channel.NAME)) >= ENOUGH:
            continue
        since = waiting_since(redis_client(), delivery_queue(channel.NAME))
        arguments = {"after": RESEND_AFTER, "channel": channel.NAME, "waiting_since": since, "round": ROUND}
        with pool().connection() as connection:
            due = [id_ for (id_,) in connection.execute(_UNSENT, arguments)]
        send_deliveries(channel.NAME, due)
        sent += len(due)
    return sent
