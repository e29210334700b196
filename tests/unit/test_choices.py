"""What is left of a user's words when more is said; above all, what the end of an unsubscription brings back."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.choices import Wanted, change, come_back, differences
from pipelines.kinds import NotificationType
from pipelines.preferences import CATEGORY, GLOBAL, OPT_OUT, TYPE, Choice, Kept, levels, opt_outs, resolve
from schema.notification import CHANNELS


def kind(name: str, category: str, email: bool = False) -> NotificationType:
    channels = {"web": True, "email": email, "push": False}
    return NotificationType(name=name, category=category, label=name, channels=channels)


TYPES = {
    "comment": kind("comment", "social"),
    "like": kind("like", "social", email=True),
    "order": kind("order", "orders"),
    "payment": kind("payment", "orders", email=True),
    "login": kind("login", "security", email=True),
}


def wanted(**said: object) -> Wanted:
    return msgspec.convert(said, Wanted)


def on(said: Kept, channel: str = "email") -> str:
    """The types that may use the channel, in order."""
    found = []
    for name, of in TYPES.items():
        near = levels(said, of)
        answer = resolve(
            [choice.enabled for choice in near],
            [choice.channels.get(channel) for choice in near],
            opted_out=channel in opt_outs(said, of),
            default=of.channels[channel],
        )
        if answer.reason is None:
            found.append(name)
    return " ".join(found)


def of(name: str, **channels: object) -> dict[str, object]:
    return {"type": name, "channels": channels}


def category(name: str, **channels: object) -> dict[str, object]:
    return {"category": name, "channels": channels}


NO_SOCIAL = [{"channel": "email", "category": "social"}]
NO_MAIL = [{"channel": "email"}]
ALL_ON = [of("comment", email=True), of("like", email=True), of("order", email=True)]

# What was said, one after the other -> who may send mail in the end.
STORIES = {
    "nothing": ([], "like payment login"),
    "one on": ([{"preferences": [of("order", email=True)]}], "like order payment login"),
    "a category on": ([{"categories": [category("social", email=True)]}], "comment like payment login"),
    "everything on": ([{"global": {"channels": {"email": True}}}], "comment like order payment login"),
    "everything off": ([{"global": {"channels": {"email": False}}}], ""),
    "everything off, one on": (
        [{"global": {"channels": {"email": False}}, "preferences": [of("comment", email="digest daily")]}],
        "comment",
    ),
    "taken back": (
        [{"global": {"channels": {"email": False}}}, {"global": {"channels": {"email": None}}}],
        "like payment login",
    ),
    "a category muted, one of it not": (
        [
            {"categories": [{"category": "social", "enabled": False}]},
            {"preferences": [{"type": "like", "enabled": True}]},
        ],
        "like payment login",
    ),
    "unsubscribed": ([{"preferences": ALL_ON, "opt_outs": NO_SOCIAL}], "order payment login"),
    "unsubscribed from all": ([{"preferences": ALL_ON, "opt_outs": NO_MAIL}], ""),
    "and never mind": (
        [{"opt_outs": NO_MAIL}, {"opt_outs": [{"channel": "email", "out": False}]}],
        "like payment login",
    ),
    "one of a category again": (
        [{"preferences": ALL_ON, "opt_outs": NO_SOCIAL}, {"preferences": [of("comment", email=True)]}],
        "comment order payment login",
    ),
    "a category again": (
        [{"preferences": ALL_ON, "opt_outs": NO_SOCIAL}, {"categories": [category("social", email=True)]}],
        "comment like order payment login",
    ),
    "one of all again": (
        [{"preferences": ALL_ON, "opt_outs": NO_MAIL}, {"preferences": [of("order", email=True)]}],
        "order",
    ),
    "a category of all again": (
        [{"preferences": ALL_ON, "opt_outs": NO_MAIL}, {"categories": [category("orders", email="digest 1h")]}],
        "order payment",
    ),
    "everything again": (
        [{"opt_outs": NO_MAIL}, {"global": {"channels": {"email": True}}}],
        "comment like order payment login",
    ),
    "everything again, but for a category": (
        [{"opt_outs": NO_MAIL + NO_SOCIAL}, {"global": {"channels": {"email": True}}}],
        "order payment login",
    ),
    "off ends no unsubscription": (
        [
            {"opt_outs": NO_MAIL},
            {"preferences": [of("order", email=False, web=True)]},
            {"opt_outs": [{"channel": "email", "out": False}]},
        ],
        "like payment login",
    ),
    "on and unsubscribed in one": ([{"preferences": ALL_ON, "opt_outs": NO_MAIL}], ""),
    "another channel": ([{"opt_outs": NO_MAIL}, {"preferences": [of("order", push=True)]}], ""),
}


@pytest.mark.parametrize(("said", "expected"), STORIES.values(), ids=STORIES)
def test_the_last_word_counts(said: list[dict[str, object]], expected: str) -> None:
    kept: Kept = {}
    for one in said:
        kept = change(kept, wanted(**one), TYPES)
        assert change(kept, wanted(**one), TYPES) == kept, "repeating it changes nothing"
    assert on(kept) == expected


def test_an_end_brings_back_nothing_that_is_new_tomorrow() -> None:
    """A type or a category that is added later, and sends mail by default."""
    kept = change({}, wanted(opt_outs=NO_MAIL), TYPES)
    kept = change(kept, wanted(preferences=[of("order", email=True)]), TYPES)
    for new in (kind("shop", "shopping", email=True), kind("refund", "orders", email=True)):
        near = levels(kept, new)
        wishes = [choice.channels.get("email") for choice in near]
        assert resolve([], wishes, opted_out=False, default=True).reason == "preference"


def test_who_comes_back_is_where_they_were() -> None:
    said = change({}, wanted(preferences=[of("comment", email="digest daily"), of("like", email=False)]), TYPES)
    out = change(said, wanted(opt_outs=NO_SOCIAL), TYPES)
    assert come_back(out, "email", "social", TYPES) == said
    assert come_back(said, "email", "social", TYPES) == said
    every = change(said, wanted(opt_outs=NO_MAIL), TYPES)
    back = come_back(every, "email", "social", TYPES)
    assert on(back) == "comment"
    assert {place for place in back if place[0] == OPT_OUT} == {(OPT_OUT, "orders"), (OPT_OUT, "security")}


def test_what_says_nothing_is_not_kept() -> None:
    kept = change({}, wanted(preferences=[of("like", email=True)]), TYPES)
    assert kept == {(TYPE, "like"): Choice(None, {"email": True})}
    assert change(kept, wanted(preferences=[of("like", email=None)]), TYPES) == {}
    assert change({}, Wanted(), TYPES) == {}


def test_each_difference_is_named() -> None:
    before = change({}, wanted(opt_outs=NO_SOCIAL, preferences=[of("like", email=True)]), TYPES)
    said = {
        "global": {"enabled": False},
        "preferences": [of("like", email="digest 1h", web=False), of("comment", email=True)],
    }
    after = change(before, wanted(**said), TYPES)
    assert differences(before, after) == [
        (CATEGORY, "social", "email", None, False),
        (GLOBAL, "", "enabled", None, False),
        (OPT_OUT, "social", "email", True, None),
        (TYPE, "comment", "email", None, True),
        (TYPE, "like", "web", None, False),
        (TYPE, "like", "email", True, "digest 1h"),
    ]
    assert differences(after, after) == []


WISHES = st.sampled_from([True, False, None, "digest daily"])
CHANNELS_SAID = st.dictionaries(st.sampled_from(CHANNELS), WISHES, max_size=3)
ENABLED = st.sampled_from([True, False, None])
CATEGORIES = ["social", "orders", "security"]
OUTS = st.builds(dict, channel=st.sampled_from(CHANNELS), category=st.sampled_from(["", *CATEGORIES]))


@st.composite
def bodies(draw: st.DrawFn, outs: bool = True) -> dict[str, object]:
    names = draw(st.sets(st.sampled_from(sorted(TYPES)), max_size=3))
    groups = draw(st.sets(st.sampled_from(CATEGORIES), max_size=2))
    found: dict[str, object] = {
        "preferences": [{"type": n, "enabled": draw(ENABLED), "channels": draw(CHANNELS_SAID)} for n in names],
        "categories": [{"category": c, "enabled": draw(ENABLED), "channels": draw(CHANNELS_SAID)} for c in groups],
    }
    if draw(st.booleans()):
        found["global"] = {"enabled": draw(ENABLED), "channels": draw(CHANNELS_SAID)}
    if outs:
        found["opt_outs"] = draw(st.lists(OUTS, max_size=3))
    return found


@given(st.lists(bodies(), max_size=3), bodies(outs=False))
def test_nothing_that_was_not_named_comes_back(said: list[dict[str, object]], last: dict[str, object]) -> None:
    """Whatever was said before: what an unsubscription closed is closed, unless it, its category or everything is
    switched on; and what is switched on by name is."""
    kept: Kept = {}
    for one in said:
        kept = change(kept, wanted(**one), TYPES)
    now = wanted(**last)
    after = change(kept, now, TYPES)
    assert change(after, now, TYPES) == after
    for channel in CHANNELS:
        for name, about in TYPES.items():
            named = [o for o in now.preferences if o.type == name]
            wide = [o for o in now.categories if o.category == about.category]
            words = [*named, *wide, now.everything]
            if named and named[0].channels.get(channel):
                assert channel not in opt_outs(after, about)
                assert after[TYPE, name].channels[channel] == named[0].channels[channel]
            elif channel in opt_outs(kept, about) and not any(channel in one.channels for one in words):
                assert name not in on(after, channel).split()
