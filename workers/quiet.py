"""What quiet hours hold: email and push that wait for their end.

When a night ends, a person gets MOST deliveries at once on each address, then as many a minute, in the order in
which they came. Their times are set when they are held: what waits at one address is numbered, under the lock of
the user's inbox, so that each of any number of workers counts what the others held. So it is known beforehand when
each comes, and however many clocks there are, they release no more. When its time has come, a delivery is claimed
like any other, and looked at once more: read, opted out, expired, quiet again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from psycopg import Connection

from pipelines.arrays import array
from pipelines.quiet_hours import quiet_hours, until
from schema.delivery import HELD
from workers import settlements
from workers.claims import Claimed
from workers.settlements import Settled

QUIET_HOURS = "quiet_hours"
MOST = 3
"""Deliveries to one address at the end of quiet hours, and a minute from then on."""

LOCK = "SELECT FROM inboxes WHERE user_id = ANY(%(users)s::text[]) ORDER BY user_id FOR UPDATE"
SPACE = f"""
WITH numbered AS (
    SELECT d.id, e.at + (row_number() OVER (
        PARTITION BY d.user_id, d.channel, d.device_id ORDER BY d.id
    ) - 1) / {MOST} * interval '1 minute' AS due
    FROM deliveries d JOIN unnest(%(users)s::text[], %(ends)s::timestamptz[]) AS e (user_id, at) USING (user_id)
    WHERE d.user_id = ANY(%(users)s::text[]) AND d.state = '{HELD}' AND d.reason = '{QUIET_HOURS}'
)
UPDATE deliveries d SET next_attempt_at = n.due FROM numbered n
WHERE d.id = n.id AND (d.next_attempt_at < n.due OR %(sooner)s AND d.next_attempt_at > n.due)
"""
_HOURS = """
SELECT id, quiet_days, quiet_from, quiet_to, time_zone, now() FROM users WHERE id = ANY(%(users)s::text[])
"""
"""Asked under the lock: they may have changed while the batch was sent."""


def settle(connection: Connection, claimed: Sequence[Claimed], settled: Sequence[Settled]) -> None:
    """Records what became of claimed deliveries, as workers.settlements.settle does, and numbers those that quiet
    hours hold."""
    claimed_at = claimed[0].row.now
    users = array({one.row.user for one in claimed if is_held(one)})
    if not any(map(is_held, claimed)):
        settlements.settle(connection, settled, claimed_at)
        return
    with connection.transaction():
        connection.execute(LOCK, {"users": users})
        hours = connection.execute(_HOURS, {"users": users}).fetchall()
        waits = {user: (until(quiet_hours(*kept), now) or now) - now for user, *kept, now in hours}
        in_view = list(settled)
        for place, one in enumerate(claimed):
            if is_held(one) and one.row.user in waits:
                in_view[place] = settled[place]._replace(wait=str(waits[one.row.user].total_seconds()))
        settlements.settle(connection, in_view, claimed_at)
        ends = {user: now + waits[user] for user, *_, now in hours}
        connection.execute(SPACE, values(ends))


def is_held(one: Claimed) -> bool:
    return one.decided is not None and (one.decided.state, one.decided.reason) == (HELD, QUIET_HOURS)


def release(connection: Connection, user: str) -> None:
    """Within the transaction that changes a user's hours: what they hold is looked at from now on."""
    connection.execute(LOCK, values({user: "now"}))
    connection.execute(SPACE, values({user: "now"}, sooner=True))


def values(ends: Mapping[str, datetime | Literal["now"]], *, sooner: bool = False) -> dict[str, str | bool]:
    """Of LOCK and SPACE: users, and when the quiet ends for each; "now" is by PostgreSQL's clock. `sooner`: also
    what was to come later comes then; without it, what was released once keeps its place."""
    return {"users": array(ends), "ends": array(map(str, ends.values())), "sooner": sooner}
