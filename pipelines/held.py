"""Deliveries that wait for their time, as fan_out writes them: how long, and with which digest.

Asked and written within fan_out's transaction, under the locks of the recipients' inboxes. Whoever gathers a
digest (workers/digests.py) takes the same lock, so a notification comes before that, and goes along, or after it,
and then its time is a later one: no digest is ever due twice.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import Connection

from pipelines.arrays import array
from pipelines.timing import ALIKE, Schedule, Waits, waits
from schema.notification import Notification

_SCHEDULES = """
SELECT id, digest_at, digest_day, time_zone, clock_timestamp() FROM users WHERE id = ANY(%s::text[])
"""
"""The clock's time, not the transaction's: that one began before the lock was there."""
_COMING = """
SELECT DISTINCT ON (user_id, channel, device_id) user_id, channel, device_id, next_attempt_at, digest_due
FROM deliveries
WHERE user_id = ANY(%s::text[]) AND state = 'held' AND digest_due IS NOT NULL
ORDER BY user_id, channel, device_id, digest_due
"""
_HOLD = """
INSERT INTO deliveries (id, notification_id, user_id, channel, device_id, state, reason, next_attempt_at,
    digest_due)
SELECT id, notification_id, user_id, channel, device_id, 'held', reason, next_attempt_at, digest_due
FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::uuid[], %s::text[], %s::timestamptz[],
    %s::timestamptz[]) AS d (id, notification_id, user_id, channel, device_id, reason, next_attempt_at, digest_due)
"""

BEGINNING = datetime.min.replace(tzinfo=UTC)

Address = tuple[str, str, UUID | None]
"""User, channel as in deliveries.channel, device."""


class Held(NamedTuple):
    """A row about to be written to `deliveries`."""

    id: UUID
    notification: UUID
    user: str
    channel: str
    device: UUID | None
    waits: Waits


@dataclass(slots=True)
class Times:
    """Now, when users want their digests, and those that already wait: the next one for each address."""

    now: datetime = BEGINNING
    schedules: dict[str, Schedule] = field(default_factory=dict)
    coming: dict[Address, Waits] = field(default_factory=dict)

    def of(self, n: Notification, address: Address) -> Waits | None:
        """What a delivery waits for; None: nothing. A critical one never waits."""
        _, channel, device = address
        rule = n.timing.get("push" if device else channel)
        if rule is None or n.importance == "critical":
            return None
        coming = self.coming.get(address)
        found = waits(rule, self.now, self.schedules.get(n.recipient, ALIKE), coming)
        if found and found.digest_due:
            sooner = coming and coming.digest_due and coming.digest_due < found.digest_due
            self.coming[address] = coming if coming and sooner else found
        return found


def timed(batch: Iterable[Notification]) -> set[str]:
    """Users with something that may have to wait."""
    return {n.recipient for n in batch if n.timing and n.importance != "critical"}


def ask(connection: Connection, users: Collection[str]) -> tuple[Any, Any]:
    """Two cursors for `read`, so that it costs no trip: within a pipeline, after the lock of the inboxes."""
    names = array(users)
    return connection.execute(_SCHEDULES, (names,)), connection.execute(_COMING, (names,))


def read(schedules: Iterable[Any], coming: Iterable[Any]) -> Times:
    found = Times()
    for user, at, day, zone, now in schedules:
        found.schedules[user], found.now = Schedule(at, day, zone), max(found.now, now)
    for user, channel, device, until, due in coming:
        found.coming[user, channel, device] = Waits("digest", until, due)
    return found


def hold(connection: Connection, rows: Sequence[Held]) -> None:
    """Writes them; one that is not there before its time."""
    columns = zip(*((*row[:5], *_plain(row.waits)) for row in rows), strict=True)
    connection.execute(_HOLD, tuple(map(array, columns)))


def _plain(wait: Waits) -> tuple[str, str, str | None]:
    due = wait.digest_due.isoformat() if wait.digest_due else None
    return wait.reason, wait.until.isoformat(), due
