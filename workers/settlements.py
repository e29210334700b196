"""Settling: what a try made of its delivery is recorded, fenced by the number of the attempt.

Repeating is safe: what is settled is not settled again, and one that another process claimed meanwhile stays that
one's.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from psycopg import Connection

from pipelines.arrays import array
from pipelines.fan_out import RESEND_AFTER
from workers.claims import UNCLAIMED

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
        settled_at = CASE WHEN t.state IN ('retrying', 'held') THEN NULL ELSE now() END
    FROM told t
    WHERE d.id = t.id AND d.attempt = t.attempt AND d.id = ANY(%(id)s::uuid[])
        AND d.state NOT IN ('pending', 'sent', 'failed', 'dead', 'suppressed', 'expired', 'digested')
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
UPDATE deliveries SET next_attempt_at = now() + %s * (1 + random() / 5),
    state = CASE state WHEN 'held' THEN state ELSE 'retrying' END,
    reason = CASE state WHEN 'held' THEN reason ELSE 'provider_away' END
WHERE id = ANY(%s::uuid[]) AND {UNCLAIMED} AND next_attempt_at <= now() + %s
"""


def postpone(connection: Connection, ids: Sequence[UUID], seconds: float) -> None:
    """No try is spent on them: their provider takes nothing at the moment."""
    connection.execute(_POSTPONE, (timedelta(seconds=seconds), array(ids), RESEND_AFTER))
