"""Digests: the deliveries that are due to one address go out as one, which one of them carries.

    held ─ gathered ─▶ pending, the one that carries ─ claimed ─▶ sending ─▶ …
                └────▶ digested, the others: final; `digest_id` names the one that carries them

Gathering takes the lock of the user's inbox, as fan_out does (pipelines/held.py): of any number of workers the
first gathers everything that is due, the others find nothing. From then on a digest is like any delivery. If the
provider is away, or whoever sends it dies, the same one is tried again, with the same notifications; what was read
or opted out of meanwhile is left out, with that on record. If that is the one which carries, another takes its
place. So a delivery that is `sent` or `digested` was in the digest, and one that was left out is `suppressed`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from types import ModuleType
from uuid import UUID

import msgspec
from psycopg import Connection
from psycopg.rows import args_row

from pipelines.arrays import array
from pipelines.catalog import Catalog
from pipelines.fan_out import RESEND_AFTER
from schema.delivery import FAILED, HELD, Digest, Line
from schema.errors import TemplateError
from workers.claims import ALL_THERE_IS, Claimed, Decided, Row, claim, look

MOST = 20
"""Notifications that a digest shows; it says how many there are."""

_LOCK = """
SELECT user_id FROM inboxes WHERE user_id IN (
    SELECT user_id FROM deliveries WHERE id = ANY(%s::uuid[]) AND state = 'held' AND digest_due IS NOT NULL
) ORDER BY user_id FOR UPDATE
"""
# What is due now, not when the transaction began. One that carried already, and was held again, may be among them:
# then those that it carries move along.
_GATHER = """
WITH asked AS (
    SELECT DISTINCT user_id, device_id FROM deliveries
    WHERE id = ANY(%(ids)s::uuid[]) AND state = 'held' AND digest_due IS NOT NULL
), due AS (
    SELECT d.id, d.digest_id, first_value(d.id) OVER (PARTITION BY d.user_id, d.device_id ORDER BY d.id) AS carrier
    FROM asked a JOIN deliveries d ON d.user_id = a.user_id AND d.device_id IS NOT DISTINCT FROM a.device_id
    WHERE d.channel = %(channel)s AND d.state = 'held' AND d.digest_due <= (SELECT clock_timestamp())
), gathered AS (
    SELECT id, carrier FROM due
    UNION ALL
    SELECT m.id, due.carrier FROM due JOIN deliveries m ON m.digest_id = due.digest_id WHERE m.state = 'digested'
)
UPDATE deliveries d SET digest_id = g.carrier, reason = 'digest', next_attempt_at = now() + %(after)s,
    state = CASE WHEN d.id = g.carrier THEN 'pending' ELSE 'digested' END,
    settled_at = CASE WHEN d.id = g.carrier THEN NULL ELSE now() END
FROM gathered g WHERE d.id = g.id
RETURNING d.id, g.carrier
"""
_MEMBERS = """
WITH claimed AS (
    SELECT id, attempt, attempt - replayed_after AS tries, notification_id, user_id, device_id, digest_id
    FROM deliveries WHERE digest_id = ANY(%(carriers)s::uuid[]) AND state = 'digested'
)"""
_LEAVE_OUT = """
UPDATE deliveries d SET state = t.state, reason = t.reason, digest_id = NULL, settled_at = now()
FROM unnest(%s::uuid[], %s::text[], %s::text[]) AS t (id, state, reason)
WHERE d.id = t.id AND d.state = 'digested'
"""
_TAKE_OVER = """
WITH told AS (
    SELECT * FROM unnest(%s::uuid[], %s::int[], %s::uuid[]) AS t (old, attempt, new)
), taken AS ( -- it may have been tried before, as another digest's carrier: those tries stay on record
    UPDATE deliveries d SET state = 'sending', attempt = greatest(o.attempt, d.attempt + 1),
        replayed_after = greatest(o.attempt, d.attempt + 1) - o.attempt + o.replayed_after,
        next_attempt_at = o.next_attempt_at, settled_at = NULL, digest_id = d.id
    FROM told t JOIN deliveries o ON o.id = t.old AND o.attempt = t.attempt AND o.state = 'sending'
    WHERE d.id = t.new AND d.state = 'digested'
    RETURNING d.id, d.attempt, o.id AS old
), tried AS (
    INSERT INTO attempts (delivery_id, number, outcome, ended_at) SELECT id, attempt, 'sending', NULL FROM taken
), along AS (
    UPDATE deliveries d SET digest_id = CASE WHEN d.id <> taken.old THEN taken.id END
    FROM taken WHERE d.digest_id = taken.old AND d.id <> taken.id
)
SELECT old, attempt FROM taken
"""


def complete(
    connection: Connection, channel: ModuleType, ids: Sequence[UUID], claimed: list[Claimed], catalog: Catalog
) -> list[Claimed]:
    """The claimed deliveries, and of those among `ids` that wait for a digest the ones that carry it; each of
    these is to be sent as the digest, or decided like any other. Costs nothing where all of `ids` are claimed and
    none is of a digest."""
    if len(claimed) < len(ids) and (carriers := gather(connection, channel, ids)):
        claimed = claimed + claim(connection, channel, carriers, catalog)
    if not any(one.row.digest for one in claimed):
        return claimed
    carrying = [one for one in claimed if one.row.digest]
    with connection.transaction():
        members = read_members(connection, channel, carrying, catalog)
        leave_out(connection, [one for others in members.values() for one in others if not goes(one)])
        heirs = take_over(connection, carrying, members)
    completed = [one for one in claimed if not one.row.digest]
    for one in carrying:
        together = [one, *members[one.row.delivery]]
        if heir := heirs.get(one.row.delivery):
            completed.append(one)
            one = heir  # noqa: PLW2901
        completed.append(worded(one, [other.row for other in together if goes(other)], catalog))
    return completed


def gather(connection: Connection, channel: ModuleType, ids: Iterable[UUID]) -> set[UUID]:
    """Makes digests of what is due to the addresses of those of `ids` that wait for one; the deliveries that carry
    them. When this is repeated, nothing is left to be gathered."""
    listed = array(ids)
    with connection.transaction(), connection.pipeline():
        connection.execute(_LOCK, (listed,))
        arguments = {"ids": listed, "channel": channel.NAME, "after": RESEND_AFTER}
        gathered = connection.execute(_GATHER, arguments).fetchall()
    return {carrier for _, carrier in gathered}


def goes(one: Claimed) -> bool:
    """Whether it is wanted, now or later."""
    return one.decided is None or one.decided.state == HELD


def read_members(
    connection: Connection, channel: ModuleType, carrying: Iterable[Claimed], catalog: Catalog
) -> dict[UUID, list[Claimed]]:
    """The others of each digest, looked at as if they were to be sent by themselves."""
    arguments = {"carriers": array(one.row.delivery for one in carrying), "serves": channel.SERVES}
    rows = connection.cursor(row_factory=args_row(Row)).execute(_MEMBERS + ALL_THERE_IS, arguments)
    members = defaultdict[UUID, list[Claimed]](list)
    for row in rows:
        if row.digest:
            members[row.digest].append(look(row, channel.SERVES, catalog))
    return members


def leave_out(connection: Connection, unwanted: Iterable[Claimed]) -> None:
    decided = [(one.row.delivery, one.decided.state, one.decided.reason) for one in unwanted if one.decided]
    if decided:
        connection.execute(_LEAVE_OUT, tuple(map(array, zip(*decided, strict=True))))


def take_over(
    connection: Connection, carrying: Sequence[Claimed], members: dict[UUID, list[Claimed]]
) -> dict[UUID, Claimed]:
    """Where nobody wants the delivery that carries a digest any more, the first of the others takes its place,
    with its tries; by the one whose place it takes."""
    found = dict[UUID, Claimed]()
    for one in carrying:
        heir = None if goes(one) else next(filter(goes, members[one.row.delivery]), None)
        if heir:
            row = heir.row._replace(tries=one.row.tries, digest=heir.row.delivery)
            found[one.row.delivery] = heir._replace(row=row)
    if not found:
        return found
    attempts = {one.row.delivery: one.row.attempt for one in carrying}
    told = [(old, attempts[old], heir.row.delivery) for old, heir in found.items()]
    taken = connection.execute(_TAKE_OVER, tuple(map(array, zip(*told, strict=True))))
    return {old: numbered(found[old], attempt) for old, attempt in taken}


def numbered(one: Claimed, attempt: int) -> Claimed:
    parcel = one.parcel and msgspec.structs.replace(one.parcel, attempt=attempt)
    return Claimed(one.row._replace(attempt=attempt), parcel, one.decided)


def worded(one: Claimed, rows: list[Row], catalog: Catalog) -> Claimed:
    """The one that carries the digest of these, as it is to be sent."""
    if one.parcel is None:
        return one
    rows.sort(key=lambda row: (row.created_at, row.delivery))
    lines = tuple(line(row) for row in rows[:MOST])
    digest = Digest(lines, len(rows), frozenset(row.category for row in rows))
    try:
        content = catalog.digests.render(digest, one.row.user)
    except TemplateError as error:
        return one._replace(parcel=None, decided=Decided(FAILED, f"template: {error}"))
    ends = [other.ends_at for other in rows]
    parcel = msgspec.structs.replace(
        one.parcel,
        title=content.title,
        message=content.message,
        action_url=content.action_url,
        data={},
        actor=None,
        group=None,
        grouped=False,
        count=digest.total,
        replaces=(),
        expires_at=None if None in ends else max(end for end in ends if end),
        digest=digest,
    )
    return Claimed(one.row._replace(ends_at=parcel.expires_at), parcel, None)


def line(row: Row) -> Line:
    return Line(
        type=row.type,
        category=row.category,
        title=row.title or "",
        message=row.message or "",
        action_url=row.action_url,
        actor=row.actor,
        created_at=row.created_at,
    )
