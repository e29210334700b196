"""Every format that leaves a process: hops and delivery messages in Redis queues, publications to the gateway,
and what a browser sees. Golden files in tests/contracts hold them still.

Hop and delivery messages carry their version. A worker that meets a newer one refuses it: it becomes a dead
letter, and its events are sent again by the clock. Deploy workers before whatever sends to them.
"""

from datetime import datetime
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

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


class Expansion(msgspec.Struct):
    """A step through an event's audience. `after`: the user it goes on behind, so that of two messages only the
    one that is up to date goes on; None: wherever the event has got to."""

    event: str
    after: str | None = None
    v: int = VERSION


M = TypeVar("M", Batch, Deliveries, Expansion)


_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    Batch: msgspec.json.Decoder(Batch),
    Deliveries: msgspec.json.Decoder(Deliveries),
    Expansion: msgspec.json.Decoder(Expansion),
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
    to resume from; `title` and `message` are plain text; `silent`, true or left out: it is shown, and nothing
    moves, sounds or is announced."""

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
    silent: bool | UnsetType = UNSET


class Publication(msgspec.Struct, rename="camel", omit_defaults=True):
    """What a user's gateway connections are told on `tocsin:user:{id}`: a change of the inbox.

    version  of the inbox; an older one never overwrites a newer unread count
    unread   count after the change
    ids      rows read or archived; None with kind "read": all of them

    With kind "presence" nothing changed but whether the page of one `connection` is `visible`; version and unread
    say nothing.
    """

    kind: Literal["notification", "read", "archived", "presence"]
    version: int
    unread: int
    item: InboxItem | None = None
    ids: list[UUID] | None = None
    connection: str | None = None
    visible: bool = False


def user_channel(user_id: str) -> str:
    """The Redis pub/sub channel of one user."""
    return f"tocsin:user:{user_id}"


def presence_key(user_id: str) -> str:
    """The Redis key that exists while a user looks at the inbox: workers/gateway/presence.py."""
    return f"tocsin:present:{user_id}"
