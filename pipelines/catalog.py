"""Catalog: every notification type, read once from its folder below templates/.

Whatever is wrong with a folder is found here, when a process starts, by name of file and line; also a sample
that its own schema refuses or its own templates cannot render. Reading is the only way in: a catalog never
changes, and several threads may use it. docs/templates.md explains the files to who writes them.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import jsonschema_rs
import msgspec
from msgspec import Meta

from pipelines import links
from pipelines.mail import Letter, lend_layout
from pipelines.rendering import Content, Sandbox, Wording
from schema.errors import FieldError, TemplateError
from schema.notification import CHANNELS

GROUP = "_group"
"""Folder of the wording for a group's row. Folders that start with `_` are not types."""

_DEFAULT_CHANNELS = {"web": True, "email": False, "push": False}
_MOST_ERRORS = 50
_GROUPS_KEPT = 1000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")
_DURATION = re.compile(r"([1-9][0-9]{0,4})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Duration(timedelta):
    """Written as a number and s, m, h or d: "90s", "15m", "1h", "7d"."""


class RateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most `max` notifications of a type for one recipient within any `per`."""

    max: Annotated[int, Meta(ge=1)]
    per: Duration


class Grouping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `threshold`-th notification of a type for one recipient within `window` makes them one row."""

    threshold: Annotated[int, Meta(ge=2)]
    window: Duration


class NotificationType(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What type.toml says. `name` is the folder's; `label` is the plural a group's row uses; `channels` names
    every channel; after `time_to_live` it is no news any more and goes out by no other channel than the web."""

    name: str
    category: Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,49}$")]
    label: Annotated[str, Meta(min_length=1, max_length=50)]
    importance: Literal["low", "normal", "high", "critical"] = "normal"
    channels: dict[str, bool] = {}
    rate_limit: RateLimit | None = None
    grouping: Grouping | None = None
    time_to_live: Duration | None = None


class Catalog:
    """Every type: its facts in `types`, by name; its sample data in `samples`; in `windows` how long those
    that are grouped gather, in milliseconds; in `personal` whether its words can differ between an event's
    recipients."""

    def __init__(self, path: Path, link_hosts: frozenset[str]) -> None:
        self._hosts = frozenset(host.lower() for host in link_hosts)
        self.types: dict[str, NotificationType] = {}
        self.samples: dict[str, dict[str, Any]] = {}
        self.windows: dict[str, int] = {}
        self.personal: dict[str, bool] = {}
        self._schemas: dict[str, jsonschema_rs.Draft202012Validator] = {}
        self._wordings: dict[str, Wording] = {}
        self._letters: dict[str, Letter] = {}
        self._group_content = lru_cache(_GROUPS_KEPT)(self._render_group)  # few types, mostly small counts
        folders = _folders(path)
        sandbox = Sandbox(path)
        lend_layout(sandbox)
        self._group = Wording(sandbox, GROUP, self._hosts)
        for folder in folders:
            name = folder.name
            self.types[name] = _read_type(folder)
            if grouping := self.types[name].grouping:
                self.windows[name] = int(grouping.window.total_seconds() * 1000)
            self.samples[name] = _read_json(folder / "sample.json")
            self._schemas[name] = self._compiled(folder / "data.schema.json")
            self._wordings[name] = Wording(sandbox, name, self._hosts)
            self.personal[name] = self._wordings[name].personal
            kind = self.types[name]
            self._letters[name] = Letter(sandbox, name, kind.label, kind.category, self._hosts)
            for error in self.check(name, self.samples[name]):
                raise TemplateError(f"{_shown(folder / 'sample.json')}: {error.field}: {error.message}")
            content = self.render(name, self.samples[name], "ada", "bob")
            self._letters[name].render(
                content, self.samples[name], "ada", "bob", "https://a.test/u", "https://a.test"
            )
            self.render_group(name, 3)

    @classmethod
    def load(cls, path: Path, link_hosts: frozenset[str] = frozenset()) -> Self:
        """The catalog of the folders below `path`; `link_hosts` are the hosts an action URL may lead to.
        Raises TemplateError."""
        return cls(path.absolute(), link_hosts)

    def check(self, type_name: str, data: dict[str, Any]) -> list[FieldError]:
        """What is wrong with an event's type and data; empty when nothing is. At most 50 errors; none repeats
        a value of the data."""
        schema = self._schemas.get(type_name)
        if schema is None:
            return [self._unknown(type_name)]
        if schema.is_valid(data):
            return []
        found = (explained for error in schema.iter_errors(data) for explained in self._explained(error))
        return list(islice(found, _MOST_ERRORS))

    def render(self, type_name: str, data: dict[str, Any], recipient: str, actor: str | None) -> Content:
        """What `recipient` is told. Raises TemplateError, also for a type whose folder is gone."""
        if type_name not in self._wordings:
            raise _gone(type_name)
        return self._wordings[type_name].render({"data": data, "recipient": recipient, "actor": actor})

    def letter(self, type_name: str) -> Letter:
        """How a type words an email. Raises TemplateError for a type whose folder is gone."""
        if type_name not in self._letters:
            raise _gone(type_name)
        return self._letters[type_name]

    def render_group(self, type_name: str, count: int) -> Content:
        """What the row of a group of `count` says. Raises TemplateError as render does."""
        if type_name not in self.types:
            raise _gone(type_name)
        return self._group_content(type_name, count)

    def _render_group(self, type_name: str, count: int) -> Content:
        return self._group.render({"count": count, "type": type_name, "label": self.types[type_name].label})

    def _unknown(self, name: str) -> FieldError:
        close = get_close_matches(name[:50], self.types, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return FieldError("type", f"unknown type {name[:50]!r}; {hint}known: {', '.join(self.types)}")

    def _compiled(self, file: Path) -> jsonschema_rs.Draft202012Validator:
        try:
            return jsonschema_rs.Draft202012Validator(
                _read_json(file),
                formats={"action-url": lambda url: links.check(url, self._hosts) is None},
                validate_formats=True,
                ignore_unknown_formats=False,
                offline=True,
                mask="value",
                pattern_options=jsonschema_rs.RegexOptions(),  # linear time, whatever the data
            )
        except jsonschema_rs.ValidationError as error:
            where = _path("", error.instance_path).lstrip(".")
            raise TemplateError(f"{_shown(file)}: {where or 'schema'}: {error.message}") from None

    def _explained(self, error: jsonschema_rs.ValidationError) -> Iterator[FieldError]:
        path = _path("data", error.instance_path)
        detail = error.kind.as_dict()
        match error.kind.name:
            case "required":
                yield FieldError(_path(path, [detail["property"]]), "is required")
            case "additionalProperties":
                for key in detail["unexpected"]:
                    yield FieldError(_path(path, [key]), "is not a known key")
            case "format" if detail["format"] == "action-url":
                yield FieldError(path, links.check(str(error.instance), self._hosts) or "")
            case "minLength" if detail["limit"] == 1:
                yield FieldError(path, "must not be empty")
            case _:
                yield FieldError(path, error.message.removeprefix("value ")[:200])


def _gone(type_name: str) -> TemplateError:
    return TemplateError(f"templates/{type_name}: is missing; the event was accepted when it was there")


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise TemplateError(f"{path.name}: no such folder; TOCSIN_TEMPLATES names the one with the types")
    folders = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and entry.name[0] not in "_."]
    for folder in folders:
        if not _NAME.fullmatch(folder.name):
            raise TemplateError(
                f"{path.name}/{folder.name}: a type's name starts with a letter and is 1 to 50 of a-z, 0-9, _"
            )
    if not folders:
        raise TemplateError(f"{path.name}: holds no types; each is a folder with a type.toml")
    return folders


def _read_type(folder: Path) -> NotificationType:
    file = folder / "type.toml"
    try:
        table = tomllib.loads(_read(file))
        if "name" in table:
            raise TemplateError(f"{_shown(file)}: Object contains unknown field `name`: it is the folder's")
        found = msgspec.convert(table | {"name": folder.name}, NotificationType, dec_hook=_duration)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise TemplateError(f"{_shown(file)}: {error}") from None
    for channel in found.channels:
        if channel not in CHANNELS:
            raise TemplateError(
                f"{_shown(file)}: channels.{channel}: no such channel; there are {', '.join(CHANNELS)}"
            )
    return msgspec.structs.replace(found, channels=_DEFAULT_CHANNELS | found.channels)


def _duration(_: type, value: object) -> Duration:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError('Expected a duration such as "90s", "15m", "1h" or "7d"')
    return Duration(**{_UNITS[match[2]]: int(match[1])})


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        raise TemplateError(f"{_shown(file)}: is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"{_shown(file)}: cannot be read as UTF-8 text ({type(error).__name__})") from None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(file))
    except json.JSONDecodeError as error:
        raise TemplateError(f"{_shown(file)}:{error.lineno}: {error.msg}") from None
    if not isinstance(found, dict):
        raise TemplateError(f"{_shown(file)}:1: must be a JSON object")
    return found


def _shown(file: Path) -> str:
    """`templates/comment/type.toml`: enough to find it, and nothing of the machine."""
    return "/".join(file.parts[-3:])


def _path(start: str, steps: list[str | int]) -> str:
    return start + "".join(f"[{step}]" if isinstance(step, int) else f".{step[:50]}" for step in steps)
