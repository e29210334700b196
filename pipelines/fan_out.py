"""The end of the chain: writes notifications and deliveries, and moves inboxes, a batch in one transaction.

Repeats safely: under the locks of the recipients' inboxes it leaves out what is already there, so a batch that
comes twice changes nothing the second time. seq follows the order of commits: the lock is held until then.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import msgspec
from psycopg import Connection
from psycopg.errors import CheckViolation

from pipelines import held, limits
from pipelines.arrays import array, json
from pipelines.group_rows import write_groups
from pipelines.held import Held, Times
from pipelines.inbox import RATIONED, Content, Inbox, Row, compose, place
from pipelines.stage import Resources
from pipelines.timing import Waits
from schema.identity import delivery_id, milliseconds_of, text
from schema.notification import Notification

UNRENDERABLE = "unrenderable"
NO_DEVICE = "no_device"
RESEND_AFTER = timedelta(seconds=15)
"""A delivery still pending after this long lost its message: the clock sends it again."""

_CONTENT = """
SELECT id, data::text, actor, send_at, expires_at, now() FROM events
WHERE id = ANY(%s::text[]) AND cancelled_at IS NULL
"""
_LOCK = """
SELECT user_id, seq, unread, windows FROM inboxes WHERE user_id = ANY(%s::text[]) ORDER BY user_id FOR UPDATE
"""
_DEVICES = "SELECT id, user_id, kind FROM devices WHERE user_id = ANY(%s::text[]) ORDER BY id"
_PRESENT = "SELECT id FROM notifications WHERE id = ANY(%s::uuid[])"
_NEW_USERS = "INSERT INTO users (id) SELECT unnest(%s::text[]) ORDER BY 1 ON CONFLICT DO NOTHING"
_NEW_INBOXES = "INSERT INTO inboxes (user_id) SELECT unnest(%s::text[]) ORDER BY 1 ON CONFLICT DO NOTHING"
_MOVE_INBOXES = """
UPDATE inboxes i SET seq = m.seq, unread = m.unread, version = version + 1, windows = m.windows
FROM ROWS FROM (unnest(%s::text[], %s::bigint[], %s::int[]), jsonb_array_elements(%s::jsonb))
    AS m (user_id, seq, unread, windows)
WHERE i.user_id = m.user_id AND i.user_id = ANY(%s::text[])
"""
_INSERT = """
WITH routed AS ( -- what the event knows goes from row to row, without a way through this process
    UPDATE events e SET routed_count = routed_count + r.count
    FROM unnest(%s::text[], %s::int[]) AS r (id, count) WHERE e.id = r.id AND e.id = ANY(%s::text[])
    RETURNING e.id, e.data, e.actor, e.expires_at
)
INSERT INTO notifications (id, event_id, user_id, seq, type, category, importance, title, message, action_url,
    error, group_id, created_at, silent, closed, data, actor, expires_at)
SELECT n.*, coalesce(e.data, '{}'), e.actor, e.expires_at
FROM ROWS FROM (
    unnest(%s::uuid[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[],
        %s::text[], %s::text[], %s::text[], %s::uuid[], %s::timestamptz[], %s::bool[]),
    jsonb_array_elements(%s::jsonb)
) AS n (id, event_id, user_id, seq, type, category, importance, title, message, action_url, error, group_id,
    created_at, silent, closed)
LEFT JOIN routed e ON e.id = n.event_id
"""
_DELIVER = """
INSERT INTO deliveries (id, notification_id, user_id, channel, device_id, state, reason, next_attempt_at,
    settled_at)
SELECT id, notification_id, user_id, channel, device_id, CASE WHEN reason IS NULL THEN 'pending' ELSE 'failed' END,
    reason, now() + %s, CASE WHEN reason IS NULL THEN NULL ELSE now() END
FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::uuid[], %s::text[])
    AS d (id, notification_id, user_id, channel, device_id, reason)
"""


class Delivery(NamedTuple):
    """A row about to be written to `deliveries`; with a reason it has failed already, and with `waits` it is not
    sent yet."""

    id: UUID
    row: Row
    channel: str
    device: UUID | None
    reason: str | None
    waits: Waits | None = None


class Device(NamedTuple):
    """Where a push goes, and the channel that brings it there."""

    id: UUID
    channel: str


def fan_out(batch: list[Notification], use: Resources) -> dict[str, list[UUID]]:
    """Writes the batch; returns the deliveries to send, by channel (none for what was written before, or
    cancelled)."""
    while True:
        try:
            return write_batch(batch, use)
        except CheckViolation as error:  # one was cancelled since its content was read: then anew, without it
            if error.diag.constraint_name != "events_cancelled":
                raise


def write_batch(batch: list[Notification], use: Resources) -> dict[str, list[UUID]]:
    """In one transaction. Raises CheckViolation of `events_cancelled`, and has written nothing then."""
    users = {n.recipient for n in batch}
    with use.pool.connection() as connection:
        found = begin(connection, batch, users, use.served)
        while missing := users - found.inboxes.keys():
            connection.commit()  # whoever makes people holds no lock meanwhile
            make_users(connection, missing)
            found = begin(connection, batch, users, use.served)
        rows, deliveries = dict[UUID, Row](), list[Delivery]()
        for addressed in batch:
            content = found.contents.get(addressed.event_id)
            if content is None or addressed.id in found.present or addressed.id in rows:
                continue
            if "push" in addressed.open and addressed.recipient not in found.devices:
                addressed = addressed.close({"push": NO_DEVICE})  # noqa: PLW2901
            n, row = compose(addressed, content, use.catalog)
            n = place(n, row, content, found.inboxes[row.user_id], milliseconds_of(content.now), use.catalog)
            rows[row.id] = row
            deliveries += addresses(n, row, found.devices, found.times)
        if not rows:
            connection.rollback()
            return {}
        write(connection, rows, deliveries, found.inboxes, use)
    give_back(rows.values(), use)
    to_send: dict[str, list[UUID]] = defaultdict(list)
    for delivery in deliveries:
        if not (delivery.reason or delivery.waits):
            to_send[delivery.channel].append(delivery.id)
    return dict(to_send)


def give_back(rows: Iterable[Row], use: Resources) -> None:
    """What a group's growing did not interrupt for is not charged to the limits of its channels."""
    rationed = [row for row in rows if row.group_id and RATIONED in row.closed.values()]
    if rationed:
        limits.give_back(
            use.redis,
            use.catalog.gates,
            [
                (row.type, row.user_id, row.id, channel)
                for row in rationed
                for channel, why in row.closed.items()
                if why == RATIONED
            ],
        )


def addresses(n: Notification, row: Row, devices: dict[str, list[Device]], times: Times) -> list[Delivery]:
    """One delivery per address: the inbox, the mailbox, each device."""
    reason = UNRENDERABLE if row.error else None
    found = []
    for channel in n.open:
        if channel == "push":
            found += [
                Delivery(delivery_id(row.id, to.channel, text(to.id)), row, to.channel, to.id, reason)
                for to in devices[row.user_id]
            ]
        else:
            found.append(Delivery(delivery_id(row.id, channel), row, channel, None, reason))
    if not n.timing or reason:
        return found
    return [one._replace(waits=times.of(n, (row.user_id, one.channel, one.device))) for one in found]


class Found(NamedTuple):
    """What the batch's events hold, without those that are gone (erased, pruned, cancelled); the recipients'
    inboxes, as far as they exist; notifications that are already written; the devices of those a push goes to;
    what is known of those who are not told all at once."""

    contents: dict[str, Content]
    inboxes: dict[str, Inbox]
    present: set[UUID]
    devices: dict[str, list[Device]]
    times: Times


def begin(connection: Connection, batch: list[Notification], users: set[str], served: frozenset[str]) -> Found:
    """Begins a transaction, with locks in the order of users' ids, so that batches never wait for each other in a
    circle."""
    pushed = {n.recipient for n in batch if "push" in n.open}
    listed: Iterable[tuple[UUID, str, str]] = ()
    timed = held.timed(batch)
    with connection.pipeline():
        connection.execute("BEGIN")
        contents = connection.execute(_CONTENT, (array({n.event_id for n in batch}),))
        locked = connection.execute(_LOCK, (array(users),))
        present = connection.execute(_PRESENT, (array(n.id for n in batch),))
        if pushed:
            listed = connection.execute(_DEVICES, (array(pushed),))
        if timed:
            asked = held.ask(connection, timed)
    devices = defaultdict(list)
    for id_, user, kind in listed:
        channel = "webpush" if kind == "web_push" else "fcm"
        if channel in served:
            devices[user].append(Device(id_, channel))
    return Found(
        {id_: Content(msgspec.json.decode(data), *rest) for id_, data, *rest in contents},
        {user: Inbox(seq, unread, windows) for user, seq, unread, windows in locked},
        {id_ for (id_,) in present},
        devices,
        held.read(*asked) if timed else Times(),
    )


def make_users(connection: Connection, users: set[str]) -> None:
    """Recipients nobody knew."""
    with connection.pipeline():
        connection.execute("BEGIN")
        connection.execute(_NEW_USERS, (array(users),))
        connection.execute(_NEW_INBOXES, (array(users),))
        connection.commit()


def write(
    connection: Connection,
    rows: dict[UUID, Row],
    deliveries: Sequence[Delivery],
    inboxes: dict[str, Inbox],
    use: Resources,
) -> None:
    """Everything the batch changes, and the commit, in one trip."""
    for inbox in inboxes.values():
        for group, grown in inbox.groups.items():
            for member in grown.leading:
                if member in rows:
                    rows[member].group_id = group
    at_once = [d for d in deliveries if not d.waits]
    waiting = [Held(d.id, d.row.id, d.row.user_id, d.channel, d.device, d.waits) for d in deliveries if d.waits]
    moved = inboxes.values()
    counts = Counter(row.event_id for row in rows.values())
    routed = sorted(counts)  # like the inboxes, so that batches that share events wait for each other in one order
    *columns, closed = zip(*map(msgspec.structs.astuple, rows.values()), strict=True)
    users, events = array(inboxes), array(routed)
    with connection.pipeline():
        connection.execute(
            _MOVE_INBOXES,
            (
                users,
                array(inbox.seq for inbox in moved),
                array(inbox.unread for inbox in moved),
                json([inbox.windows for inbox in moved]),
                users,
            ),
        )
        connection.execute(
            _INSERT, (events, array(map(counts.get, routed)), events, *map(array, columns), json(closed))
        )
        write_groups(connection, inboxes, use.catalog)
        connection.execute(
            _DELIVER,
            (
                RESEND_AFTER,
                array(d.id for d in at_once),
                array(d.row.id for d in at_once),
                array(d.row.user_id for d in at_once),
                array(d.channel for d in at_once),
                array(d.device for d in at_once),
                array(d.reason for d in at_once),
            ),
        )
        if waiting:
            held.hold(connection, waiting)
        connection.commit()
