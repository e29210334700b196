"""What a batch does to a recipient's inbox: what each notification says, and the place it gets. No I/O."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from pipelines import rendering
from pipelines.catalog import Catalog
from pipelines.group_wording import Gathered
from pipelines.limits import OVER
from pipelines.windows import Joined, Rule, Window, Windows, end_old, interrupt, join
from schema.errors import TemplateError
from schema.identity import milliseconds_of
from schema.notification import Notification

RATIONED = "rationed"
"""Why a channel is not told of a group's member: it was interrupted for the group a moment ago."""


class Row(msgspec.Struct, kw_only=True):
    """A row about to be written to `notifications`, by its columns, without those that are its event's. `seq`
    stays empty for one that is not shown by itself; `silent`: nothing rings for it."""

    id: UUID
    event_id: str
    user_id: str
    seq: int | None = None
    type: str
    category: str = ""
    importance: str
    title: str | None = None
    message: str | None = None
    action_url: str | None = None
    error: str | None = None
    group_id: UUID | None = None
    created_at: datetime
    silent: bool = False
    closed: dict[str, str]


@dataclass(slots=True)
class Content:
    """What an event's row holds for fan_out. `said`: what every recipient reads, once one was told; `key`: what
    it is about, once that was asked."""

    data: dict[str, Any]
    actor: str | None
    send_at: datetime | None
    expires_at: datetime | None
    now: datetime
    said: rendering.Content | None = None
    key: str | None = None


@dataclass(slots=True)
class GroupRow:
    """A group that formed or grew in this batch. `data`: of its last member; `silent`: no more than its row
    moves."""

    last: Row
    data: dict[str, Any]
    window: str
    joined: Joined
    silent: bool = False
    seq: int = 0
    leading: list[UUID] = field(default_factory=list)

    def gathered(self) -> Gathered:
        """What there is to say of it."""
        _, _, key = self.window.partition("/")
        _, count, _, people, actors = self.joined
        return Gathered(count=count, people=people, actors=actors, key=key, data=self.data)


@dataclass(slots=True)
class Inbox:
    """A recipient's inbox, locked, and what the batch does to it."""

    seq: int
    unread: int
    windows: Windows
    groups: dict[UUID, GroupRow] = field(default_factory=dict)
    ended: list[UUID] = field(default_factory=list)


def compose(n: Notification, content: Content, catalog: Catalog) -> tuple[Notification, Row]:
    """What the notification says. One that cannot be rendered carries its error and goes nowhere."""
    if content.expires_at and content.expires_at <= content.now:
        n = n.close(dict.fromkeys(n.open, "expired"))
    if n.type not in catalog.types:
        n = n.close(dict.fromkeys(n.open, "unknown_type"))
    accepted_at = datetime.fromtimestamp(milliseconds_of(n.id) / 1000, UTC)
    row = Row(
        id=n.id,
        event_id=n.event_id,
        user_id=n.recipient,
        type=n.type,
        importance=n.importance,
        created_at=max(accepted_at, content.send_at or accepted_at),
        closed=n.closed,
    )
    if n.type not in catalog.types:
        return n, row
    row.category = catalog.types[n.type].category
    try:
        said = content.said or catalog.render(n.type, content.data, n.recipient, content.actor)
    except TemplateError as error:
        row.error = str(error)
    else:
        content.said = None if catalog.personal[n.type] else said
        row.title, row.message, row.action_url = said.title, said.message, said.action_url
    return n, row


def place(n: Notification, row: Row, content: Content, inbox: Inbox, now: int, catalog: Catalog) -> Notification:
    """Gives a shown notification its place: a row of its own, or membership of a group; then fewer channels may be
    told of it. `now`: milliseconds by Postgres' clock, the same for a whole batch, so that no window begins and
    ends within one."""
    if row.error or "web" not in n.open:
        return n
    name = window_of(n, content, catalog)
    if n.folded and name is None:  # into what, nobody knows
        n = n.close(dict.fromkeys(n.open, OVER))
        row.closed = n.closed
        return n
    if name is not None:
        rule = catalog.windows[n.type]
        inbox.ended += end_old(inbox.windows, now, catalog.windows)
        who = catalog.groups[n.type].who(content.data, content.actor)
        if joined := join(inbox.windows, name, n.id, now, rule, who, folded=n.folded):
            rationed = ration(n, inbox.windows[name], now, rule)
            n = n.close({channel: RATIONED for channel in rationed if channel != "web"})
            row.group_id, row.closed, row.silent = joined.group, n.closed, "web" in rationed
            gather(inbox, GroupRow(row, content.data, name, joined, silent=row.silent))
            return n
    inbox.seq += 1
    inbox.unread += 1
    row.seq = inbox.seq
    return n


def window_of(n: Notification, content: Content, catalog: Catalog) -> str | None:
    """The window a notification gathers in, if any: with the event's group_key, or the key that its type makes of
    the event's data."""
    if n.window is None or n.type not in catalog.windows:
        return None
    words = catalog.groups[n.type]
    if not words.has_key or n.window != f"{n.type}/":
        return n.window
    if content.key is None:
        content.key = words.key(content.data)
    return None if content.key is None else n.window + content.key


def ration(n: Notification, window: Window, now: int, rule: Rule) -> Collection[str]:
    """The channels that a group's growing by this one must not interrupt on. Web is told all the same, silently; a
    digest interrupts nobody."""
    if n.folded:
        return n.open
    if rule.interrupt is None:
        return ()
    interrupting = [channel for channel in n.open if not n.timing.get(channel, "").startswith("digest")]
    return interrupt(window, interrupting, now, 0 if n.importance == "critical" else rule.interrupt)


def gather(inbox: Inbox, grown: GroupRow) -> None:
    """A group that grows takes one place for the whole batch; one that forms takes its members' from them."""
    if leading := grown.joined.leading:
        inbox.unread += 1 - len(leading)
    known = inbox.groups.get(grown.joined.group)
    if known:
        known.last, known.data, known.joined = grown.last, grown.data, grown.joined
        known.silent = known.silent and grown.silent
    else:
        inbox.seq += 1
        grown.seq, grown.leading = inbox.seq, leading
        inbox.groups[grown.joined.group] = grown
