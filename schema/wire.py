"""Every format that leaves a process: hops and delivery messages in Redis queues, publications to the gateway,
and what a browser sees. Golden files in tests/contracts hold them still.

Hop and delivery messages carry their version. A worker that meets a newer one refuses it: it becomes a dead
letter, and its events are sent again by the clock. Deploy workers before whatever sends to them.
"""

from datetime import datetime
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgspec

from schema.notification import Notification

VERSION = 1
BATCH = 500
"""Items in one message, at most."""


class Batch(msgspec.Struct):
    """One hop of the chain: up to 500 notifications."""

    notifications: list[Notification]
    v: int = VERSION


class Deliveries(msgspec.Struct):
    """Deliveries to send over one channel, up to 500."""

    deliveries: list[UUID]
    v: int = VERSION


M = TypeVar("M", Batch, Deliveries)


_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    Batch: msgspec.json.Decoder(Batch),
    Deliveries: msgspec.json.Decoder(Deliveries),
}


def read(message: bytes | msgspec.Raw, kind: type[M]) -> M:
    """A message as it came from the queue. Raises ValueError for what this version does not know."""
    found: M = _decoders[kind].decode(message)
    if found.v != VERSION:
        raise ValueError(f"a message of version {found.v}, and this worker knows {VERSION}")
    return found


class Group(msgspec.Struct, rename="camel"):
    """On a group's row: how many it holds, and the members that had a row of their own until it formed."""

    count: int
    leading: list[UUID]


class InboxItem(msgspec.Struct, rename="camel"):
    """A row of an inbox as REST, SSE and Socket.IO show it. `seq` orders one user's inbox and names the place
    to resume from; `title` and `message` are plain text."""

    id: UUID
    seq: int
    type: str
    category: str
    importance: str
    title: str
    message: str
    data: dict[str, Any]
    action_url: str | None
    created_at: datetime
    read: bool
    read_at: datetime | None = None
    clicked_at: datetime | None = None
    archived_at: datetime | None = None
    group: Group | None = None


class Publication(msgspec.Struct, rename="camel", omit_defaults=True):
    """What a user's gateway connections are told on `tocsin:user:{id}`: a change of the inbox.

    version  of the inbox; an older one never overwrites a newer unread count
    unread   count after the change
    ids      rows read or archived; None with kind "read": all of them
    """

    kind: Literal["notification", "read", "archived"]
    version: int
    unread: int
    item: InboxItem | None = None
    ids: list[UUID] | None = None


def user_channel(user_id: str) -> str:
    """The Redis pub/sub channel of one user."""
    return f"tocsin:user:{user_id}"
