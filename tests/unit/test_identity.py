"""Ids that are computed: the same on every repeat, different for everything else, in the order of time."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.identity import (
    delivery_id,
    first_id_at,
    group_id,
    milliseconds_of,
    new_event_id,
    notification_id,
    time_ordered_id,
)

AT = 1_800_000_000_000
MILLISECONDS = st.integers(0, 253_370_764_799_999)
"""From 1970 to the end of 9998."""
TOLD = UUID("01a3185c-5000-7824-b6b8-db86b2a8b111")
INSTANTS = st.integers(1_262_304_000_000, 2_145_916_800_000)
"""From 2010 to 2038, where the clocks of a fleet may stand."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def test_ids_are_what_they_always_were() -> None:
    """A release that computes others would tell a second time what is in flight while it is rolled out."""
    assert notification_id(AT, "c-1", "ada") == TOLD
    assert delivery_id(TOLD, "web") == UUID("01a3185c-5000-7adf-b3b3-e5bcba4634f4")
    assert group_id(TOLD) == UUID("01a3185c-5000-7c81-90f2-23fc1bb845d1")


@given(MILLISECONDS, st.lists(st.text(), max_size=4))
def test_the_layout_is_that_of_version_7(at: int, parts: list[str]) -> None:
    """RFC 9562 §5.7: 48 bits of milliseconds, the version, the variant."""
    made = time_ordered_id(at, *parts)
    assert (made.version, made.variant) == (7, RFC_4122)
    assert made.bytes[:6] == at.to_bytes(6, "big")
    assert time_ordered_id(at, *parts) == made
    assert milliseconds_of(made) == at


@pytest.mark.parametrize(
    "other",
    [
        notification_id(AT + 1, "c-1", "ada"),
        notification_id(AT, "c-2", "ada"),
        notification_id(AT, "c-1", "bob"),
        notification_id(AT, "ada", "c-1"),
        notification_id(AT, "c-1a", "da"),
        notification_id(AT, "c-", "1ada"),
        notification_id(AT, "c-1", "Ada"),
        notification_id(AT, "c-1", "ada "),
        group_id(TOLD),
        delivery_id(TOLD, "web"),
        delivery_id(TOLD, "email"),
        delivery_id(TOLD, "web", "ada"),
        time_ordered_id(AT, "c-1", "ada"),
    ],
)
def test_whatever_differs_has_another_id(other: UUID) -> None:
    assert other != TOLD


def test_addresses_of_one_channel_are_delivered_to_one_by_one() -> None:
    assert len({delivery_id(TOLD, "push", f"token-{number}") for number in range(1000)}) == 1000


def test_what_belongs_together_lies_in_one_partition() -> None:
    """A group's row and the deliveries have the notification's time, so its month."""
    assert {milliseconds_of(id_) for id_ in (TOLD, delivery_id(TOLD, "web"), group_id(TOLD))} == {AT}


@given(st.lists(MILLISECONDS, min_size=2, max_size=20, unique=True))
def test_ids_sort_as_their_times(times: list[int]) -> None:
    assert all(one < two for one, two in pairwise(time_ordered_id(at, "x") for at in sorted(times)))


@given(INSTANTS)
def test_an_instant_gives_its_milliseconds(at: int) -> None:
    instant = EPOCH + timedelta(milliseconds=at)
    assert milliseconds_of(instant) == at
    assert milliseconds_of(instant.astimezone(timezone(timedelta(hours=-11, minutes=-30)))) == at
    assert abs(milliseconds_of(instant + timedelta(microseconds=999)) - at) <= 1


@given(INSTANTS, st.text())
def test_no_id_of_an_instant_is_before_its_first(at: int, part: str) -> None:
    first, following = (first_id_at(EPOCH + timedelta(milliseconds=at + more)) for more in (0, 1))
    assert first < time_ordered_id(at, part) < following


def test_events_without_an_id_get_different_ones_of_now() -> None:
    made = [UUID(new_event_id()) for _ in range(1000)]
    assert len(set(made)) == 1000
    assert abs(milliseconds_of(made[-1]) - milliseconds_of(datetime.now(UTC))) < 10_000
