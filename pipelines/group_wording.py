"""Group wording: what a group's row says, and what a type makes of its members' data for that.

    group.title.txt.j2, group.message.txt.j2, group.action_url.txt.j2
                            in the type's folder; each without which that of _group/ serves
    grouping.key            in type.toml: a template that says what an event is about
    grouping.actor          in type.toml: which key of the data names who did it

The templates know `count` (members), `people` (who did it, each once), `others` (people - 1), `actors` (the names
of the last of them, newest first), `data` of the last member, `key` (what the group is about, or ''), `label` and
`type`.
"""

import re
from contextlib import suppress
from functools import lru_cache
from typing import Any

import msgspec

from pipelines.kinds import NotificationType
from pipelines.rendering import PARTS, Content, Sandbox, Wording, _one_line, _output
from pipelines.windows import NAMED, Who
from schema.errors import TemplateError

GROUP = "_group"
"""Folder of the wording for groups whose type brings none. Folders that start with `_` are not types."""
LONGEST_KEY = 255
LONGEST_NAME = 100

_KEPT = 200
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_PEOPLE = ("actors", "people", "others")


class Gathered(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to say of a group."""

    count: int
    people: int
    actors: tuple[str, ...] = ()
    key: str = ""
    data: dict[str, Any] = {}


class GroupWording:
    """How one type words its groups. Several threads may use it. Raises TemplateError for what cannot be read."""

    def __init__(self, sandbox: Sandbox, kind: NotificationType, hosts: frozenset[str]) -> None:
        own = [f"{kind.name}/group.{part}.txt.j2" for part in PARTS]
        usual = [f"{GROUP}/{part}.txt.j2" for part in PARTS]
        names = [name if name in sandbox.sources else other for name, other in zip(own, usual, strict=True)]
        self._kind = kind
        self._wording = Wording(sandbox, names, hosts)
        self._usual = Wording(sandbox, usual, hosts)
        self._of_people = any(sandbox.may_read(name, variable) for name in names for variable in _PEOPLE)
        self._plain = not self._of_people and not any(
            sandbox.may_read(name, variable) for name in names for variable in ("data", "key")
        )
        self._render_count = lru_cache(_KEPT)(lambda count: self._render(Gathered(count=count, people=count)))
        said = kind.grouping
        where = f"{kind.name}/type.toml, grouping.key"
        self._key = said and said.key and sandbox.written(where, said.key)
        self._parts = bool(self._key) and sandbox.may_read(where, "data")
        self._actor = said and said.actor
        self.has_key = bool(self._key)

    def key(self, data: dict[str, Any]) -> str | None:
        """What an event without a group_key is about; None: its data does not say, so it gathers with nothing."""
        if not self._key:
            return ""
        try:
            return _one_line(_output(self._key, {"data": data}))[:LONGEST_KEY]
        except TemplateError:
            return None

    def who(self, data: dict[str, Any], actor: str | None) -> Who | None:
        """Who did it, if the wording speaks of people and the event says so."""
        if not self._of_people:
            return None
        name = data.get(self._actor) if self._actor else actor
        if not isinstance(name, str) or not name:
            return None
        return (actor or name, name[:LONGEST_NAME])

    def render(self, group: Gathered) -> Content:
        """What the group's row says. Data that no template was made for must not keep the group from being told:
        then it says what a group without a wording of its own does."""
        if self._plain:
            return self._render_count(group.count)
        try:
            return self._render(group)
        except TemplateError:
            with suppress(TemplateError):
                return self._usual.render(self._known(group))
            return Content(f"{group.count} new {self._kind.label}", "", None)

    def check(self, sample: dict[str, Any], where: str) -> None:
        """Raises TemplateError for what goes wrong with the sample: of few and of many, of one person and of
        several. `where`: the path of type.toml."""
        name = "Bob"
        if self._actor:
            name = sample.get(self._actor, "")
            if not isinstance(name, str) or not name:
                raise TemplateError(f"{where}: grouping.actor: sample.json has no text under {self._actor!r}")
        key = ""
        if self._kind.grouping and self._kind.grouping.key is not None and not self._parts:
            raise TemplateError(
                f"{where}: grouping.key: is the same for every event; {_hint(self._kind.grouping.key)}"
            )
        if self._key:
            key = _one_line(_output(self._key, {"data": sample}))
        for count, people, about in ((2, 2, key), (3, 1, key), (5, 5, key), (5, 5, ""), (5, 5, "k")):
            actors = (name,) * min(people, NAMED)
            self._render(Gathered(count=count, people=people, actors=actors, key=about, data=sample))
        self._render(Gathered(count=2, people=2, data=sample))

    def _render(self, group: Gathered) -> Content:
        return self._wording.render(self._known(group))

    def _known(self, group: Gathered) -> dict[str, object]:
        return {
            "count": group.count,
            "people": group.people,
            "others": group.people - 1,
            "actors": list(group.actors),
            "key": group.key,
            "data": group.data,
            "label": self._kind.label,
            "type": self._kind.name,
        }


def _hint(key: str) -> str:
    name = key.strip().removeprefix("data.")
    if _NAME.fullmatch(name):
        return f'did you mean "{{{{ data.{name} }}}}"?'
    return 'a template of the data is needed, such as "{{ data.postId }}"'
