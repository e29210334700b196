"""Cancelling: for whom an event was not written yet it never is, and what waits to be sent is not sent. What is
sent stays sent, and what stands in an inbox stays there.

Row locks decide every race. An event's row is marked first: a batch that is being written at that moment finds
itself refused (the constraint `events_cancelled`) and begins anew without the event, or has ended before and is
counted here. A delivery is suppressed, or was claimed before and counts as sent; if its try fails, the next finds
the mark (workers/claims.py), as does a digest that was put together before. Repeating is safe.
"""

import time
from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection

from schema.identity import milliseconds_of

MOST = 500
"""Events of one key in one answer."""
ROUND = 5_000
"""Deliveries suppressed by one statement."""
PASSES, PAUSE = 20, 0.05
"""How often, and after how many seconds, deliveries are looked at again that others had locked."""

_MARK = """
UPDATE events SET cancelled_at = now(), recipient_count = routed_count WHERE id = %s AND cancelled_at IS NULL
"""
_NO_TIMER = "DELETE FROM timers WHERE key = 'event/' || %s"
_EVENT = """
SELECT cancelled_at, routed_count, accepted_at,
    CASE jsonb_typeof(recipients) WHEN 'array' THEN jsonb_array_length(recipients) ELSE routed_count END,
    jsonb_typeof(recipients) = 'object' AND (expanded_at IS NULL OR expanded_to IS NOT NULL)
FROM events WHERE id = %s
"""
_OWN = """
FROM notifications n JOIN deliveries d ON d.notification_id = n.id
WHERE n.id >= %(begin)s AND n.id < %(end)s AND n.event_id = %(event)s AND d.id >= %(begin)s AND d.id < %(end)s
"""
"""Of an event: all ids that belong to it are of one millisecond (schema/identity.py)."""
_OPEN = f"""{_OWN}
    AND d.channel <> 'web' AND d.state IN ('held', 'pending', 'retrying') AND d.digest_id IS NULL
"""
"""What is for the web stands in the inbox already; who carries others' digest is looked at when it is claimed."""
_SUPPRESS = f"""
UPDATE deliveries SET state = 'suppressed', reason = 'cancelled', settled_at = now()
WHERE id >= %(begin)s AND id < %(end)s
    AND id = ANY(ARRAY(SELECT d.id {_OPEN} LIMIT %(round)s FOR UPDATE OF d SKIP LOCKED))
"""
_LEFT = f"SELECT EXISTS (SELECT {_OPEN})"
_COUNTS = f"""
SELECT channel, count(*) FILTER (WHERE cancelled), count(*) FILTER (WHERE NOT cancelled AND NOT ended),
    count(*) FILTER (WHERE NOT cancelled AND ended)
FROM (
    SELECT d.channel, d.state IN ('suppressed', 'expired', 'failed', 'dead') AS ended,
        (d.state, d.reason) IS NOT DISTINCT FROM ('suppressed', 'cancelled')
            OR d.digest_id IS NOT NULL AND EXISTS ( -- a digest that waits leaves it out when it goes
                SELECT FROM deliveries c WHERE c.id = d.digest_id AND c.state IN ('held', 'pending', 'retrying')
            ) AS cancelled
    {_OWN}
) AS d GROUP BY channel ORDER BY channel
"""
_OF_KEY = "SELECT id FROM events WHERE cancel_key = %s AND id > %s ORDER BY id LIMIT %s"


class Deliveries(msgspec.Struct):
    """Of one channel. `cancelled`: not sent, nor will they be; `sent`: sent, or being sent at this moment;
    `ended`: had ended otherwise before (a preference, no address, a failure)."""

    cancelled: int
    sent: int
    ended: int


class Cancelled(msgspec.Struct):
    """`was`: "waiting" (nothing was written, nobody hears of it), "partly_routed" or "routed". `routed`: for how
    many of its `recipients` it had been written; of an audience both are the same number. `says`: all of it in
    words, after "the event …"."""

    id: str
    cancelled_at: datetime
    was: str
    recipients: int
    routed: int
    channels: dict[str, Deliveries]
    says: str


class CancelledEvents(msgspec.Struct):
    """`next`: the `after` that goes on where a key has more events; empty at the end."""

    events: list[Cancelled]
    next: str | None = None


def cancel(connection: Connection, event_id: str) -> Cancelled | None:
    """None when nobody knows the event."""
    with connection.transaction():
        connection.execute(_MARK, (event_id,))
        connection.execute(_NO_TIMER, (event_id,))
        row = connection.execute(_EVENT, (event_id,)).fetchone()
        if row is None:
            return None
        cancelled_at, routed, accepted_at, recipients, expanding = row
        at = milliseconds_of(accepted_at) if routed else 0
        own = {"event": event_id, "begin": _first(at), "end": _first(at + 1), "round": ROUND}
        full = bool(routed) and connection.execute(_SUPPRESS, own).rowcount == ROUND
    channels: dict[str, Deliveries] = {}
    if routed:
        suppress_the_rest(connection, own, full=full)
        channels = {name: Deliveries(*counts) for name, *counts in connection.execute(_COUNTS, own)}
    was = "waiting" if not routed else "partly_routed" if expanding or routed < recipients else "routed"
    says = in_words(was, recipients, routed, channels)
    return Cancelled(event_id, cancelled_at, was, recipients, routed, channels, says)


def suppress_the_rest(connection: Connection, own: dict[str, Any], *, full: bool) -> None:
    """An audience's many; and what others had locked, who claim or settle it at this moment."""
    passes = 0
    while full or (passes < PASSES and connection.execute(_LEFT, own).fetchone() == (True,)):
        if not full:
            passes += 1
            time.sleep(PAUSE if passes > 1 else 0)
        full = connection.execute(_SUPPRESS, own).rowcount == ROUND


def cancel_all(connection: Connection, key: str, after: str = "") -> CancelledEvents:
    """Every event of the key, in the order of their ids, each in a transaction of its own."""
    ids = [id_ for (id_,) in connection.execute(_OF_KEY, (key, after, MOST))]
    events = [one for id_ in ids if (one := cancel(connection, id_))]
    return CancelledEvents(events, ids[-1] if len(ids) == MOST else None)


def in_words(was: str, recipients: int, routed: int, channels: dict[str, Deliveries]) -> str:
    """After "the event …"."""
    if was == "waiting":
        return "was cancelled before anything was written"
    whole = f"all {recipients:,}" if was == "routed" else f"{routed:,} of {recipients:,}"
    if was == "partly_routed" and routed == recipients:
        whole = f"{routed:,} of its audience"
    told = [
        f"{name}: {counts.cancelled:,} cancelled, {counts.sent:,} sent"
        + (f", {counts.ended:,} had ended before" if counts.ended else "")
        for name, counts in channels.items()
    ]
    return f"was cancelled when it had been written for {whole}" + (f" ({'; '.join(told)})" if told else "")


def _first(milliseconds: int) -> str:
    return f"{milliseconds << 80:032x}"
