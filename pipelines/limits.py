"""Limits: the sliding windows that a notification is charged to; those of its type are in type.toml, [rate_limit],
those of all types together in limits.toml, [user]."""

import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Meta
from redis import Redis, RedisError

from pipelines.kinds import (
    Duration,
    Limit,
    NotificationType,
    RateLimit,
    check_channels,
    duration,
    read_text,
    table_errors,
)
from schema.errors import TemplateError
from schema.identity import text

FILE = "limits.toml"
OVER = "rate_limit"
"""The reason with which channels close."""


class Window(NamedTuple):
    """At most `max` within any `per` microseconds: of a type, or of all where that is empty; on a channel, or
    whatever the channel where that is empty."""

    type: str
    channel: str
    max: int
    per: int

    def key(self, user: str) -> str:
        """Where Redis keeps it: a sorted set, notification id -> when it was charged, in µs since 1970."""
        return f"tocsin:limit:{self.type}{'/' if self.channel else ''}{self.channel}:{user}"


Gates = dict[str, list[Window]]
"""The windows that a notification must pass, under ""; and those it must pass for a channel, under its name."""


class UserLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most `max` notifications of all types for one user within any `per`; `channels` are further limits, of
    one channel each."""

    max: Annotated[int, Meta(ge=1)] | None = None
    per: Duration | None = None
    channels: dict[str, Limit] = {}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user: UserLimits = UserLimits()


def read_limits(templates: Path) -> UserLimits:
    """What limits.toml says; no limit where there is none. Raises TemplateError."""
    name = f"{templates.name}/{FILE}"
    if not (templates / FILE).exists():
        return UserLimits()
    try:
        table = tomllib.loads(read_text(templates / FILE))
    except tomllib.TOMLDecodeError as error:
        raise TemplateError(f"{name}: {error}") from None
    if wrong := table_errors(table, _File):
        raise TemplateError("\n".join(f"{name}: {one.field}: {one.message}" for one in wrong))
    said = msgspec.convert(table, _File, dec_hook=duration).user
    if (said.max is None) != (said.per is None):
        raise TemplateError(f"{name}: user: max and per come together")
    check_channels(said.channels, f"{name}: user.channels")
    return said


def gates(kind: NotificationType, user: UserLimits) -> Gates:
    """What the type's notifications must pass."""
    found: Gates = {}
    said: list[tuple[str, RateLimit | UserLimits]] = [("", user)]
    if kind.rate_limit:
        said.insert(0, (kind.name, kind.rate_limit))
    for of, limits in said:
        if limits.max is not None and limits.per is not None:
            found.setdefault("", []).append(Window(of, "", limits.max, _microseconds(limits.per)))
        for channel, limit in limits.channels.items():
            found.setdefault(channel, []).append(Window(of, channel, limit.max, _microseconds(limit.per)))
    return found


def give_back(redis: Redis, gates: Mapping[str, Gates], charged: Iterable[tuple[str, str, UUID, str]]) -> None:
    """Ends what notifications (type, user, id) were charged for a channel that was closed afterwards. While Redis
    is away it stays charged, until its window has passed."""
    with suppress(RedisError), redis.pipeline(transaction=False) as pipe:
        for kind, user, id_, channel in charged:
            for window in gates[kind].get(channel, ()):
                pipe.zrem(window.key(user), text(id_))
        pipe.execute()


def _microseconds(per: timedelta) -> int:
    return per // timedelta(microseconds=1)
