"""Kinds: what a notification type's type.toml says, read and checked."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pipelines import durations
from pipelines.timing import NOW, Timing, parse
from schema.errors import FieldError, TemplateError
from schema.fields import field_errors
from schema.notification import CHANNELS

_DEFAULT_CHANNELS: dict[str, bool | str] = {"web": True, "email": False, "push": False}
_CATEGORY = re.compile("[a-z][a-z0-9_]{0,49}")
_DURATIONS = {"per", "window", "longest", "interrupt", "time_to_live"}
"""What type.toml and limits.toml call them."""


class Duration(timedelta):
    """Written as a number and s, m, h or d: "90s", "15m", "1h", "7d"."""


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most `max` within any `per`."""

    max: Annotated[int, Meta(ge=1)]
    per: Duration


class RateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most `max` notifications of a type for one recipient within any `per`; without the two, any number. What
    comes over it is folded into the type's group, or suppressed; `channels` are further limits, each of one
    channel."""

    max: Annotated[int, Meta(ge=1)] | None = None
    per: Duration | None = None
    overflow: Literal["suppress", "fold"] = "suppress"
    channels: dict[str, Limit] = {}


class Grouping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `threshold`-th notification of a type for one recipient within `window` makes them one row. `key`: a
    template that says what it is about, for events without a group_key; `actor`: the key of the data that names
    who did it, else the event's actor does; `longest`: after which a group ends however busy it is; `interrupt`:
    the least between two emails or pushes of one group."""

    threshold: Annotated[int, Meta(ge=2)]
    window: Duration
    key: str | None = None
    actor: str | None = None
    longest: Duration | None = None
    interrupt: Duration | None = None


class NotificationType(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What type.toml says. `name` is the folder's; `label` is the plural a group's row uses; `channels` names
    every channel, and whether it is on; `timings` when it goes out, where that is not at once; after
    `time_to_live` it is no news any more and goes out by no other channel than the web."""

    name: str
    category: str
    label: Annotated[str, Meta(min_length=1, max_length=50)]
    importance: Literal["low", "normal", "high", "critical"] = "normal"
    channels: dict[str, bool] = {}
    timings: dict[str, Timing] = {}
    rate_limit: RateLimit | None = None
    grouping: Grouping | None = None
    time_to_live: Duration | None = None


class _Channels(msgspec.Struct):
    """As they are written: on or off, or when."""

    channels: dict[str, bool | str]


def read_type(folder: Path) -> NotificationType:
    """What the folder's type.toml says. Raises TemplateError naming everything that is wrong with it."""
    file = folder / "type.toml"
    try:
        table = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise TemplateError(f"{shown(file)}: {error}") from None
    wrong = [FieldError(ours, "is not a known field") for ours in ("name", "timings") if ours in table]
    if isinstance(table.get("category"), str) and not _CATEGORY.fullmatch(table["category"]):
        wrong.append(FieldError("category", "must be a letter, and up to 49 of a-z, 0-9 and _"))
    channels = {"channels": table.pop("channels", {})}
    wrong += field_errors(channels, _Channels) or _wrong_channels(channels["channels"])
    table = {key: value for key, value in table.items() if key != "timings"} | {"name": folder.name}
    faults = table_errors(table, NotificationType)
    if not faults:
        found = msgspec.convert(table, NotificationType, dec_hook=duration)
        faults = list(_contradictions(found))
    if wrong or faults:
        raise TemplateError("\n".join(f"{shown(file)}: {one.field}: {one.message}" for one in wrong + faults))
    said = _DEFAULT_CHANNELS | channels["channels"]
    on = {channel: bool(rule) for channel, rule in said.items()}
    timings = {channel: parse(rule) for channel, rule in said.items() if isinstance(rule, str) and rule != "now"}
    return msgspec.structs.replace(found, channels=on, timings=timings)


def table_errors(table: dict[str, Any], kind: type[msgspec.Struct]) -> list[FieldError]:
    """Everything wrong with a table of TOML that is not a `kind`."""
    return [
        FieldError(one.field, durations.EXPECTED if one.message.startswith("expected Duration") else one.message)
        for one in field_errors(_with_durations(table), kind)
    ]


def _with_durations(table: dict[str, Any]) -> dict[str, Any]:
    """The table with durations for their texts, where those are right."""
    found = dict(table)
    for key, value in table.items():
        if isinstance(value, dict):
            found[key] = _with_durations(value)
        elif key in _DURATIONS:
            with suppress(ValueError):
                found[key] = duration(Duration, value)
    return found


def _wrong_channels(said: dict[str, bool | str]) -> list[FieldError]:
    wrong = list(_unknown_channels(said, "channels"))
    for channel, rule in said.items():
        try:
            if isinstance(rule, str) and parse(rule) != NOW and channel == "web":
                wrong.append(FieldError("channels.web", "goes out at once, or not at all"))
        except ValueError as error:
            wrong.append(FieldError(f"channels.{channel}", str(error)))
    return wrong


def _contradictions(kind: NotificationType) -> Iterator[FieldError]:
    limit, grouping = kind.rate_limit, kind.grouping
    if limit:
        if (limit.max is None) != (limit.per is None):
            yield FieldError("rate_limit", "max and per come together")
        yield from _unknown_channels(limit.channels, "rate_limit.channels")
        if limit.overflow == "fold" and not grouping:
            yield FieldError("rate_limit.overflow", '"fold" needs a [grouping] to fold into')
    if grouping and grouping.longest and grouping.longest < grouping.window:
        yield FieldError("grouping.longest", "must not be shorter than the window")


def _unknown_channels(named: Iterable[str], where: str) -> Iterator[FieldError]:
    for channel in named:
        if channel not in CHANNELS:
            yield FieldError(f"{where}.{channel}", f"no such channel; there are {', '.join(CHANNELS)}")


def check_channels(named: Iterable[str], where: str) -> None:
    """Raises TemplateError for one that is none."""
    for wrong in _unknown_channels(named, where):
        raise TemplateError(f"{wrong.field}: {wrong.message}")


def duration(_: type, value: object) -> Duration:
    """For msgspec, which reads no such text by itself."""
    return Duration(seconds=durations.read(str(value)).total_seconds())


def read_text(file: Path) -> str:
    """Raises TemplateError."""
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        raise TemplateError(f"{shown(file)}: is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"{shown(file)}: cannot be read as UTF-8 text ({type(error).__name__})") from None


def shown(file: Path) -> str:
    """`templates/comment/type.toml`: enough to find it, and nothing of the machine."""
    return "/".join(file.parts[-3:])
