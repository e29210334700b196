"""A dry run: what would become of events, without storing, sending, charging or counting anything.

The stages decide, and wording, groups, digests and quiet hours are found by the same functions as for real; only
what fan_out and claiming read is read here, without a lock. It is told as of the moment at which an event is due,
with limits, preferences and groups as they are now. What only the future knows (whether it is read in time, what
the provider says) is not told.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Literal

import msgspec
from psycopg import Connection

from pipelines import STAGES, accept, audience, held
from pipelines.accept import Accepted, Arrival, Verdict, address, listed
from pipelines.arrays import array
from pipelines.fan_out import NO_DEVICE, Delivery, Device, addresses
from pipelines.held import Times
from pipelines.inbox import Content, Inbox, compose, place
from pipelines.quiet_hours import QuietHours, quiet_hours, until
from pipelines.stage import Resources
from schema.errors import FieldError, InvalidEvent
from schema.event import Event
from schema.identity import milliseconds_of
from schema.notification import CHANNELS, Notification
from workers.presence import IF_OFFLINE, ONLINE, looking
from workers.quiet import QUIET_HOURS

MOST = 1000
"""Recipients of all events of one call."""
SHOWN = 100
"""Recipients of an audience that are told of; so many of the above it takes."""

_PEOPLE = """
SELECT u.id, u.email, s.reason, i.seq, i.unread, i.windows, u.quiet_days, u.quiet_from, u.quiet_to, u.time_zone
FROM users u
JOIN inboxes i ON i.user_id = u.id
LEFT JOIN suppressed_addresses s ON s.address = lower(u.email)
WHERE u.id = ANY(%s::text[])
"""
_DEVICES = "SELECT user_id, id, kind FROM devices WHERE user_id = ANY(%s::text[]) ORDER BY id"


class Prospect(msgspec.Struct, kw_only=True):
    """What one channel would do. `at`: when it goes out, null for never; `reason`: why later, or not at all;
    `timing`: the rule for it, where that is not "now"; `silent`: nothing moves on the screen; `addresses`: to how
    many it goes."""

    channel: str
    outcome: Literal["sent", "held", "closed"]
    at: datetime | None = None
    reason: str | None = None
    timing: str | None = None
    silent: bool = False
    addresses: int = 0


class GroupProspect(msgspec.Struct):
    """The group that the notification would join, and what its row would say then."""

    count: int
    title: str


class Told(msgspec.Struct, kw_only=True):
    """What one recipient would be told. `error`: why nothing, where a template fails."""

    user: str
    title: str | None
    error: str | None
    group: GroupProspect | None
    channels: list[Prospect]


class DryEvent(msgspec.Struct, kw_only=True):
    """`status`: "accepted"; or "duplicate", which does nothing. `due`: now, or its send_at. `recipients`: how many
    there are; of an audience `notifications` has only the first."""

    id: str
    type: str
    status: str
    due: datetime
    recipients: int
    notifications: list[Told]


class DryRun(msgspec.Struct):
    events: list[DryEvent]


@dataclass(slots=True)
class Person:
    """What is known of a recipient; of one that is not known, this."""

    email: str | None = None
    suppressed: str | None = None
    inbox: Inbox = field(default_factory=lambda: Inbox(0, 0, {}))
    quiet: QuietHours | None = None
    devices: list[Device] = field(default_factory=list)
    looking: bool = False


def foresee(arrivals: Sequence[Arrival], use: Resources) -> tuple[Verdict, DryRun]:
    """What the door would answer to this call; and, unless it clashes, what each event would do. Raises
    InvalidEvent when too many recipients are named, and what Postgres and Redis raise when they are away."""
    named = sum(len(listed(event) or range(SHOWN)) for event, _ in arrivals)
    if named > MOST:
        why = f"are {named:,}; a dry run tells of {MOST:,} in one call, where an audience counts as {SHOWN}"
        raise InvalidEvent([FieldError("recipients", why)])
    with use.pool.connection(timeout=2) as connection:
        (verdict,), _ = accept.judge([arrivals], accept.stored_before(connection, [arrivals]))
        if verdict.conflicts:
            return verdict, DryRun([])
        ((now,),) = connection.execute("SELECT now()").fetchall()
        events = [
            prospective(connection, event, status, now)
            for (event, _), status in zip(arrivals, verdict.statuses, strict=True)
        ]
    batch = [n for _, accepted, _ in events for n in address(accepted, use.catalog)]
    for stage in STAGES:
        batch = stage(batch, replace(use, dry=True))
    people, times = find(batch, use)
    told = iter(batch)
    for dry, accepted, content in events:
        times.now = content.now
        dry.notifications = [
            tell(n, content, people[n.recipient], times, use) for n in islice(told, len(accepted.recipients or ()))
        ]
    return verdict, DryRun([dry for dry, _, _ in events])


def prospective(
    connection: Connection, event: Event, status: str, now: datetime
) -> tuple[DryEvent, Accepted, Content]:
    """An event as if it had just been stored; one that was before is for nobody."""
    due = max(now, event.send_at or now)
    users = listed(event)
    count = len(users or ())
    if status != "accepted":
        users, count = [], 0
    elif users is None:
        count, users = audience.first_of(connection, event, due, SHOWN)
    id_ = event.id or ""
    return (
        DryEvent(id=id_, type=event.type, status=status, due=due, recipients=count, notifications=[]),
        Accepted(id_, event.type, users, event.importance, event.group_key, now),
        Content(event.data, event.actor, event.send_at, event.expires_at, due),
    )


def find(batch: list[Notification], use: Resources) -> tuple[dict[str, Person], Times]:
    """What fan_out and claiming know of the recipients."""
    people: dict[str, Person] = defaultdict(Person)
    timed, users = held.timed(batch), array({n.recipient for n in batch})
    with use.pool.connection(timeout=2) as connection:
        for id_, email, suppressed, seq, unread, windows, *hours in connection.execute(_PEOPLE, (users,)):
            people[id_] = Person(email, suppressed, Inbox(seq, unread, windows), quiet_hours(*hours))
        for user, id_, kind in connection.execute(_DEVICES, (users,)):
            channel = "webpush" if kind == "web_push" else "fcm"
            if channel in use.served:
                people[user].devices.append(Device(id_, channel))
        times = held.read(*held.ask(connection, timed)) if timed else Times()
    absent_only = {n.recipient for n in batch if IF_OFFLINE in n.timing.values()}
    for user in looking(use.redis, absent_only) if absent_only else ():
        people[user].looking = True
    return people, times


def tell(n: Notification, content: Content, person: Person, times: Times, use: Resources) -> Told:
    """What fan_out would write for a recipient, and claiming make of it."""
    if "push" in n.open and not person.devices:
        n = n.close({"push": NO_DEVICE})
    n, row = compose(n, content, use.catalog)
    n = place(n, row, content, person.inbox, milliseconds_of(content.now), use.catalog)
    deliveries = addresses(n, row, {n.recipient: person.devices}, times)
    grown = person.inbox.groups.get(row.group_id) if row.group_id else None
    prospects = [prospect(channel, n, deliveries, content, person, use) for channel in CHANNELS]
    prospects[0].silent |= prospects[0].outcome == "sent" and grown is not None and grown.silent
    group = None
    if grown:
        said = use.catalog.render_group(n.type, grown.gathered())
        group = GroupProspect(grown.joined.total, said.title)
    return Told(user=n.recipient, title=row.title, error=row.error, group=group, channels=prospects)


def prospect(
    channel: str, n: Notification, deliveries: list[Delivery], content: Content, person: Person, use: Resources
) -> Prospect:
    if channel not in n.open:
        return Prospect(channel=channel, outcome="closed", reason=n.closed.get(channel))
    mine = [one for one in deliveries if (one.device is not None if channel == "push" else one.channel == channel)]
    told = Prospect(channel=channel, outcome="sent", at=content.now, addresses=len(mine))
    told.timing = n.timing.get(channel)
    if waits := mine[0].waits:
        told.outcome, told.at, told.reason = "held", waits.until, waits.reason
    quiet_to = None if n.importance == "critical" else until(person.quiet, told.at or content.now)
    if quiet_to and channel == "web":
        told.silent = True
    elif quiet_to:
        told.outcome, told.at, told.reason = "held", quiet_to, QUIET_HOURS
    if reason := hindrance(told, n, mine[0], content, person, use):
        return Prospect(channel=channel, outcome="closed", reason=reason, timing=told.timing)
    return told


def hindrance(
    told: Prospect, n: Notification, delivery: Delivery, content: Content, person: Person, use: Resources
) -> str | None:
    """Why an open channel will not be told after all, as far as it is known now."""
    if delivery.reason:
        return delivery.reason
    if told.channel == "email" and not person.email:
        return "no_address"
    if told.channel == "email" and person.suppressed:
        return f"address_suppressed: {person.suppressed}"
    at_once = told.outcome == "sent" and content.send_at is None
    if told.timing == IF_OFFLINE and n.importance != "critical" and person.looking and at_once:
        return ONLINE
    ends = [content.expires_at] if content.expires_at else []
    lives = use.catalog.types[n.type].time_to_live
    if lives and told.channel != "web":
        ends.append(delivery.row.created_at + lives)
    return "expired" if told.at and any(end <= told.at for end in ends) else None
