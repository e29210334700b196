"""Ids that are computed, not looked up: the same parts give the same id, so every step may run twice.

An id is a UUID in version 7's layout (RFC 9562 §5.7): 48 bits of milliseconds, then bits of a hash instead of
random ones. The milliseconds come from the event's row (`accepted_at`), never from the clock at hand; they
put the row in its month's partition.
"""

import secrets
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from uuid import UUID

import msgspec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_VERSION = 7 << 76 | 0b10 << 62
"""And the variant."""
_RANDOM = ((1 << 12) - 1) << 64 | (1 << 62) - 1


def time_ordered_id(milliseconds: int, *parts: str) -> UUID:
    """The id of `parts` at `milliseconds` since 1970; equal input, equal id."""
    digest = int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=16).digest(), "big")
    return UUID(int=milliseconds << 80 | _VERSION | digest & _RANDOM)


def text(id_: UUID) -> str:
    """str(id_), in a fifth of its time."""
    return str(msgspec.to_builtins(id_))


def milliseconds_of(value: UUID | datetime) -> int:
    """Milliseconds since 1970 of an instant, or of the instant inside a time-ordered id."""
    if isinstance(value, UUID):
        return value.int >> 80
    return (value - _EPOCH) // _MILLISECOND


def first_id_at(at: datetime) -> UUID:
    """The smallest id of that instant: a bound for partitions and for ranges over ids."""
    return UUID(int=milliseconds_of(at) << 80)


def notification_id(accepted_ms: int, event_id: str, recipient: str) -> UUID:
    return time_ordered_id(accepted_ms, "notification", event_id, recipient)


def delivery_id(notification: UUID, channel: str, address: str = "") -> UUID:
    return time_ordered_id(milliseconds_of(notification), "delivery", text(notification), channel, address)


def group_id(first_member: UUID) -> UUID:
    """A group is named after the notification that opened its window."""
    return time_ordered_id(milliseconds_of(first_member), "group", text(first_member))


def new_event_id() -> str:
    """An id for an event whose producer gave none: time-ordered and random."""
    return str(time_ordered_id(milliseconds_of(datetime.now(UTC)), secrets.token_hex(16)))
