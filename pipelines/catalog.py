"""Catalog: every notification type, read once from its folder below templates/.

Whatever is wrong with a folder is found here, when a process starts, by name of file and line; also a sample
that its own schema refuses or its own templates cannot render. Reading is the only way in: a catalog never
changes, and several threads may use it. docs/templates.md explains the files to who writes them.
"""

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, Self

import jsonschema_rs

from pipelines import kinds, limits, links
from pipelines.digests import Digests
from pipelines.group_wording import GROUP, Gathered, GroupWording
from pipelines.mail import Letter, lend_layout
from pipelines.rendering import PARTS, Content, Sandbox, Wording
from pipelines.strays import refuse_strays
from pipelines.windows import Rule
from schema.errors import FieldError, TemplateError

_MOST_ERRORS = 50
_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")


class Catalog:
    """Every type: its facts in `types`, by name; its sample data in `samples`; in `windows` the rule by which
    those that are grouped gather; in `groups` how each words a group; in `personal` whether its words can differ
    between an event's recipients; in `gates` the limits of each type."""

    def __init__(self, path: Path, link_hosts: frozenset[str]) -> None:
        self._hosts = frozenset(host.lower() for host in link_hosts)
        self.types: dict[str, kinds.NotificationType] = {}
        self.samples: dict[str, dict[str, Any]] = {}
        self.windows: dict[str, Rule] = {}
        self.groups: dict[str, GroupWording] = {}
        self.personal: dict[str, bool] = {}
        self.gates: dict[str, limits.Gates] = {}
        self._schemas: dict[str, jsonschema_rs.Draft202012Validator] = {}
        self._wordings: dict[str, Wording] = {}
        self._letters: dict[str, Letter] = {}
        self._group_letters: dict[str, Letter] = {}
        folders = _folders(path)
        user_limits = limits.read_limits(path)
        sandbox = Sandbox(path)
        refuse_strays(path, limits.FILE, sandbox)
        lend_layout(sandbox)
        for folder in folders:
            name = folder.name
            self.types[name] = kinds.read_type(folder)
            self.gates[name] = limits.gates(self.types[name], user_limits)
            if grouping := self.types[name].grouping:
                self.windows[name] = Rule.of(grouping)
            self.samples[name] = _read_json(folder / "sample.json")
            self._schemas[name] = self._compiled(folder / "data.schema.json")
            self._wordings[name] = Wording(sandbox, [f"{name}/{part}.txt.j2" for part in PARTS], self._hosts)
            self.personal[name] = self._wordings[name].personal
            kind = self.types[name]
            self._letters[name] = Letter(sandbox, name, kind.label, kind.category, self._hosts)
            self._group_letters[name] = Letter(sandbox, GROUP, kind.label, kind.category, self._hosts)
            self.groups[name] = GroupWording(sandbox, kind, self._hosts)
            for error in self.check(name, self.samples[name]):
                raise TemplateError(f"{kinds.shown(folder / 'sample.json')}: {error.field}: {error.message}")
            content = self.render(name, self.samples[name], "ada", "bob")
            self._letters[name].render(
                content, self.samples[name], "ada", "bob", "https://a.test/u", "https://a.test"
            )
            self.groups[name].check(self.samples[name], kinds.shown(folder / "type.toml"))
            content = self.render_group(name, Gathered(count=3, people=1, data=self.samples[name]))
            self.letter(name, of_group=True).render(
                content, self.samples[name], "ada", "bob", "https://a.test/u", "https://a.test"
            )
        self.digests = Digests(sandbox, {name: kind.label for name, kind in self.types.items()}, self._hosts)

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

    def letter(self, type_name: str, *, of_group: bool = False) -> Letter:
        """How a type words an email; one that tells of a group has the layout of all, for the type's own speaks of
        one event. Raises TemplateError for a type whose folder is gone."""
        if type_name not in self._letters:
            raise _gone(type_name)
        return (self._group_letters if of_group else self._letters)[type_name]

    def render_group(self, type_name: str, group: Gathered) -> Content:
        """What a group's row says. Raises TemplateError for a type whose folder is gone."""
        if type_name not in self.groups:
            raise _gone(type_name)
        return self.groups[type_name].render(group)

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
            raise TemplateError(f"{kinds.shown(file)}: {where or 'schema'}: {error.message}") from None

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


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(kinds.read_text(file))
    except json.JSONDecodeError as error:
        raise TemplateError(f"{kinds.shown(file)}:{error.lineno}: {error.msg}") from None
    if not isinstance(found, dict):
        raise TemplateError(f"{kinds.shown(file)}:1: must be a JSON object")
    return found


def _path(start: str, steps: list[str | int]) -> str:
    return start + "".join(f"[{step}]" if isinstance(step, int) else f".{step[:50]}" for step in steps)
