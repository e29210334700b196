"""What a batch does to a recipient's inbox: what each notification says, and the place it gets. No I/O."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from pipelines import rendering
from pipelines.catalog import Catalog
from pipelines.grouping import Windows, end_old, join
from schema.errors import TemplateError
from schema.identity import milliseconds_of
from schema.notification import Notification


class Row(msgspec.Struct, kw_only=True):
    """A row about to be written to `notifications`, by its columns, without those that are its event's. `seq`
    stays empty for one that is not shown by itself."""

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
    closed: dict[str, str]


@dataclass(slots=True)
class Content:
    """What an event's row holds for fan_out. `said`: what every recipient reads, once one was told."""

    data: dict[str, Any]
    actor: str | None
    send_at: datetime | None
    expires_at: datetime | None
    now: datetime
    said: rendering.Content | None = None


@dataclass(slots=True)
class GroupRow:
    """A group that formed or grew in this batch."""

    last: Row
    window: str
    count: int
    seq: int
    leading: list[UUID]


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


def place(n: Notification, row: Row, inbox: Inbox, now: int, catalog: Catalog) -> None:
    """Gives a shown notification its place: a row of its own, or membership of a group. `now`: milliseconds by
    Postgres' clock, the same for a whole batch, so that no window begins and ends within one."""
    if row.error or "web" not in n.open:
        return
    grouping = catalog.types[n.type].grouping
    if n.window is not None and grouping:
        inbox.ended += end_old(inbox.windows, now, catalog.windows)
        joined = join(inbox.windows, n.window, n.id, now, grouping.threshold, catalog.windows[n.type])
        if joined:
            if joined.leading:
                inbox.unread += 1 - len(joined.leading)
            row.group_id = joined.group
            if known := inbox.groups.get(joined.group):
                known.last, known.count = row, joined.total
            else:
                inbox.seq += 1
                inbox.groups[joined.group] = GroupRow(row, n.window, joined.total, inbox.seq, joined.leading)
            return
    inbox.seq += 1
    inbox.unread += 1
    row.seq = inbox.seq
