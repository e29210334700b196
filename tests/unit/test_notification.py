"""A notification on its way: channels are only ever closed, each with the first reason there was."""

from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.notification import CHANNELS, Notification

NEW = Notification(UUID(int=7), "c-1", "comment", "ada", "normal", CHANNELS, {})
REASONS = st.dictionaries(st.sampled_from([*CHANNELS, "pigeon"]), st.sampled_from(["muted", "rate_limit", "x"]))


def test_a_closed_channel_has_its_reason() -> None:
    closed = NEW.close({"email": "type_default"})
    assert (closed.open, closed.closed) == (("web", "push"), {"email": "type_default"})


def test_the_first_reason_stays() -> None:
    twice = NEW.close({"web": "muted"}).close({"web": "rate_limit", "push": "rate_limit"})
    assert twice.open == ("email",)
    assert twice.closed == {"web": "muted", "push": "rate_limit"}


def test_nothing_to_close_is_the_same_notification() -> None:
    closed = NEW.close({"web": "muted"})
    for nothing in ({}, {"web": "rate_limit"}, {"pigeon": "muted"}):
        assert closed.close(nothing) is closed


def test_closing_leaves_the_original_as_it_was() -> None:
    NEW.close({"web": "muted"})
    assert (NEW.open, NEW.closed) == (CHANNELS, {})
    with pytest.raises(AttributeError):
        NEW.open = ()  # type: ignore[misc]


@given(st.lists(REASONS, max_size=5))
def test_a_channel_is_open_or_closed_and_never_opens_again(closings: list[dict[str, str]]) -> None:
    n = NEW
    for channels in closings:
        before, n = n, n.close(channels)
        assert set(n.open) | set(n.closed) == set(CHANNELS)
        assert set(n.open).isdisjoint(n.closed)
        assert n.open == tuple(channel for channel in before.open if channel not in channels)
        assert before.closed.items() <= n.closed.items()
        assert msgspec.structs.replace(n, open=CHANNELS, closed={}) == NEW


def test_it_travels_as_an_array() -> None:
    """A batch of 500 repeats no field's name 500 times."""
    raw = msgspec.json.encode(NEW.close({"push": "muted"}))
    assert msgspec.json.decode(raw) == [
        "00000000-0000-0000-0000-000000000007",
        "c-1",
        "comment",
        "ada",
        "normal",
        ["web", "email"],
        {"push": "muted"},
        None,
        {},
        False,
    ]
