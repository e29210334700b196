"""Choices: what a user said of types, categories and everything, and what is left of it when more is said.

The last word counts: a channel that is switched on ends an unsubscription from it, and only for what was named.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from pipelines.kinds import NotificationType
from pipelines.preferences import CATEGORY, GLOBAL, OPT_OUT, TYPE, Choice, Kept, Wish
from schema.notification import CHANNELS

Types = Mapping[str, NotificationType]


class Said(msgspec.Struct, forbid_unknown_fields=True):
    """Of everything, or of what a subclass names. What is left out stays; null takes it back, so that the next
    scope's word counts."""

    enabled: bool | UnsetType | None = UNSET
    channels: dict[str, Wish | None] = {}


class OfType(Said, kw_only=True, forbid_unknown_fields=True):
    """`category` and `label` are ignored: an answer holds them, and may be sent back."""

    type: str
    category: str = ""
    label: str = ""


class OfCategory(Said, kw_only=True, forbid_unknown_fields=True):
    """`labels` are ignored: an answer holds them, and may be sent back."""

    category: str
    labels: list[str] = []


class OptOut(msgspec.Struct, forbid_unknown_fields=True):
    """An unsubscription from a category, or from the whole channel: category "". `out`: false ends it."""

    channel: str
    category: str = ""
    out: bool = True


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """What is said now: of types, of categories, of everything, and unsubscriptions."""

    preferences: list[OfType] = []
    categories: list[OfCategory] = []
    everything: Said = msgspec.field(name="global", default_factory=Said)
    opt_outs: list[OptOut] = []


def said_of(wanted: Wanted) -> Iterator[tuple[str, str, Said]]:
    """Scope and name of each."""
    yield GLOBAL, "", wanted.everything
    for category in wanted.categories:
        yield CATEGORY, category.category, category
    for kind in wanted.preferences:
        yield TYPE, kind.type, kind


class Words:
    """A user's words while they change: by scope and name, then by setting."""

    def __init__(self, said: Kept) -> None:
        self.said = {place: (choice.enabled, dict(choice.channels)) for place, choice in said.items()}

    def channels(self, scope: str, name: str) -> dict[str, Wish]:
        return self.said.setdefault((scope, name), (None, {}))[1]

    def opted_out(self, channel: str, category: str) -> bool:
        return channel in self.said.get((OPT_OUT, category), (None, {}))[1]

    def say(self, scope: str, name: str, said: Said) -> None:
        channels = self.channels(scope, name)
        for channel, wish in said.channels.items():
            if wish is None:
                channels.pop(channel, None)
            else:
                channels[channel] = wish
        if said.enabled is not UNSET:
            self.said[scope, name] = (said.enabled, channels)

    def end(self, channel: str, category: str) -> bool:
        """Ends an unsubscription; whether there was one."""
        return self.opted_out(channel, category) and bool(self.channels(OPT_OUT, category).pop(channel))

    def whole(self) -> Kept:
        found = {place: Choice(enabled, channels) for place, (enabled, channels) in self.said.items()}
        return {place: choice for place, choice in found.items() if choice.enabled is not None or choice.channels}


def change(before: Kept, wanted: Wanted, types: Types) -> Kept:
    """What the user said, with this said now."""
    words = Words(before)
    for channel in CHANNELS:
        _begin_again(words, channel, _switched_on(wanted, channel, types), types)
    for scope, name, said in said_of(wanted):
        words.say(scope, name, said)
    for out in wanted.opt_outs:
        if out.out:
            words.channels(OPT_OUT, out.category)[out.channel] = True
        else:
            words.end(out.channel, out.category)
    return words.whole()


def _switched_on(wanted: Wanted, channel: str, types: Types) -> set[tuple[str, str]]:
    """Scopes and names; but for those that the same words unsubscribe."""
    out = {one.category for one in wanted.opt_outs if one.out and one.channel == channel}
    found = set()
    for scope, name, said in said_of(wanted):
        category = types[name].category if scope == TYPE else name
        if said.channels.get(channel) and not {"", category} & out:
            found.add((scope, name))
    return found


def _begin_again(words: Words, channel: str, on: set[tuple[str, str]], types: Types) -> None:
    """Ends the unsubscriptions from a channel that is switched on for these scopes. What they closed besides is
    written down one step finer: of the whole channel as one of each other category, and "off" for what is new;
    of a category as "off" for it, and for each type of it that would be on."""
    narrow = {types[name].category for scope, name in on if scope == TYPE}
    wide = {name for scope, name in on if scope == CATEGORY}
    ended = bool(on) and words.end(channel, "")
    if ended and (GLOBAL, "") not in on:
        leave(words, channel, narrow | wide, types)
        words.channels(GLOBAL, "")[channel] = False
    for category in narrow | wide:
        closed = words.end(channel, category) or (ended and (GLOBAL, "") not in on)
        if closed and category not in wide:
            words.channels(CATEGORY, category)[channel] = False
            for name, kind in types.items():
                if kind.category == category and words.channels(TYPE, name).get(channel):
                    words.channels(TYPE, name)[channel] = False


def leave(words: Words, channel: str, but: Iterable[str], types: Types) -> None:
    """Unsubscribes from every category but these."""
    for category in {kind.category for kind in types.values()}.difference(but):
        words.channels(OPT_OUT, category)[channel] = True


def come_back(before: Kept, channel: str, category: str, types: Types) -> Kept:
    """What the user said, without an unsubscription from this category; one from the whole channel stays, as one
    of each other category."""
    words = Words(before)
    if words.end(channel, "") and category:
        leave(words, channel, [category], types)
    words.end(channel, category)
    return words.whole()


class Changed(NamedTuple):
    scope: str
    name: str
    setting: str
    before: Wish | None
    after: Wish | None


def differences(before: Kept, after: Kept) -> list[Changed]:
    """One for each setting, by scope and name."""
    found = []
    for scope, name in sorted(before.keys() | after.keys()):
        was, is_ = before.get((scope, name), Choice()), after.get((scope, name), Choice())
        if was.enabled != is_.enabled:
            found.append(Changed(scope, name, "enabled", was.enabled, is_.enabled))
        for channel in CHANNELS:
            old, new = was.channels.get(channel), is_.channels.get(channel)
            if old != new:
                found.append(Changed(scope, name, channel, old, new))
    return found
