"""What a batch does to a recipient's inbox: what each notification says, and the place it gets. No I/O."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from pipelines.catalog import Catalog
from pipelines.grouping import Windows, end_old, join
from schema.errors import TemplateError
from schema.identity import milliseconds_of
from schema.notification import Notification


@dataclass(slots=True)
class Row:
    """A notification about to be written. `seq` stays empty for one that is not shown by itself."""

    notification: Notification
    actor: str | None
    data: str
    expires_at: datetime | None
    category: str = ""
    title: str | None = None
    message: str | None = None
    action_url: str | None = None
    error: str | None = None
    seq: int | None = None
    group: UUID | None = None

    @property
    def created_at(self) -> datetime:
        return datetime.fromtimestamp(milliseconds_of(self.notification.id) / 1000, UTC)


@dataclass(slots=True)
class GroupRow:
    """A group that formed or grew in this batch."""

    last: Row
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


def compose(
    n: Notification,
    data: dict[str, Any],
    actor: str | None,
    expires_at: datetime | None,
    now: datetime,
    catalog: Catalog,
) -> Row:
    """What the notification says. One that cannot be rendered carries its error and goes nowhere."""
    if expires_at and expires_at <= now:
        n = n.close(dict.fromkeys(n.open, "expired"))
    row = Row(n, actor, msgspec.json.encode(data).decode(), expires_at)
    if n.type not in catalog.types:
        return row
    row.category = catalog.types[n.type].category
    try:
        content = catalog.render(n.type, data, n.recipient, actor)
    except TemplateError as error:
        row.error = str(error)
    else:
        row.title, row.message, row.action_url = content.title, content.message, content.action_url
    return row


def place(row: Row, inbox: Inbox, catalog: Catalog) -> None:
    """Gives a shown notification its place: a row of its own, or membership of a group."""
    n = row.notification
    if row.error or "web" not in n.open:
        return
    grouping = catalog.types[n.type].grouping
    if n.window is not None and grouping:
        at = milliseconds_of(n.id)
        inbox.ended += end_old(inbox.windows, at, catalog.windows)
        joined = join(inbox.windows, n.window, n.id, at, grouping.threshold, catalog.windows[n.type])
        if joined:
            if joined.total == grouping.threshold:
                inbox.unread += 1 - len(joined.leading)
            row.group = joined.group
            if known := inbox.groups.get(joined.group):
                known.last, known.count = row, joined.total
            else:
                inbox.seq += 1
                inbox.groups[joined.group] = GroupRow(row, joined.total, inbox.seq, joined.leading)
            return
    inbox.seq += 1
    inbox.unread += 1
    row.seq = inbox.seq
