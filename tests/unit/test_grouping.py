"""The rule by which notifications gather: windows, leading members, groups that form, grow and end."""

from uuid import UUID

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from pipelines.grouping import Joined, Windows, end_old, forget, join
from schema.identity import group_id, notification_id

HOUR = 3_600_000
START = 1_800_000_000_000
NAME = "comment/post-9"


def made(number: int, at: int = START) -> UUID:
    return notification_id(at, str(number), "ada")


def joined(windows: Windows, number: int, at: int = START, threshold: int = 3) -> Joined | None:
    return join(windows, NAME, made(number), at, threshold, HOUR)


def test_the_third_within_the_window_makes_a_group_of_all_three() -> None:
    windows: Windows = {}
    assert joined(windows, 1) is None
    assert joined(windows, 2, START + 1) is None
    assert joined(windows, 3, START + 2) == Joined(group_id(made(1)), 3, [made(1), made(2)])


def test_later_ones_join_it() -> None:
    windows: Windows = {}
    for number in range(3):
        joined(windows, number)
    assert joined(windows, 3) == Joined(group_id(made(0)), 4, [])
    assert joined(windows, 4) == Joined(group_id(made(0)), 5, [])


def test_a_threshold_of_two() -> None:
    windows: Windows = {}
    assert joined(windows, 1, threshold=2) is None
    assert joined(windows, 2, threshold=2) == Joined(group_id(made(1)), 2, [made(1)])


def test_one_that_is_older_than_the_window_does_not_lead() -> None:
    windows: Windows = {}
    joined(windows, 1, START)
    joined(windows, 2, START + 10)
    assert joined(windows, 3, START + HOUR) is None
    assert joined(windows, 4, START + HOUR + 1) == Joined(group_id(made(2)), 3, [made(2), made(3)])


def test_windows_do_not_mix() -> None:
    windows: Windows = {}
    for number in range(2):
        join(windows, "comment/a", made(number), START, 3, HOUR)
        join(windows, "comment/b", made(10 + number), START, 3, HOUR)
    formed = join(windows, "comment/a", made(2), START, 3, HOUR)
    assert formed
    assert formed.leading == [made(0), made(1)]


def test_a_late_one_does_not_turn_a_window_back() -> None:
    """One that was accepted earlier and comes later leaves the window its length."""
    windows: Windows = {}
    joined(windows, 1, START + 1000)
    joined(windows, 2, START)
    assert windows[NAME]["at"] == START + 1000
    joined(windows, 3, START - 1000)
    assert windows[NAME]["at"] == START + 1000


def test_old_windows_end_and_name_their_groups() -> None:
    windows: Windows = {}
    for number in range(3):
        joined(windows, number)
    join(windows, "like/", made(7), START, 3, HOUR)
    join(windows, "comment/new", made(8), START + 1, 3, HOUR)
    assert end_old(windows, START + HOUR - 1, {"comment": HOUR, "like": HOUR}) == []
    assert len(windows) == 3
    assert end_old(windows, START + HOUR, {"comment": HOUR, "like": HOUR}) == [group_id(made(0))]
    assert list(windows) == ["comment/new"]


def test_each_that_joins_makes_the_window_longer() -> None:
    windows: Windows = {}
    for number in range(3):
        joined(windows, number)
    joined(windows, 3, START + HOUR - 1)
    assert end_old(windows, START + HOUR + 1, {"comment": HOUR}) == []
    assert end_old(windows, START + 2 * HOUR - 1, {"comment": HOUR}) == [group_id(made(0))]


def test_a_type_that_groups_no_more_ends_at_once() -> None:
    windows: Windows = {}
    for number in range(3):
        joined(windows, number)
    assert end_old(windows, START, {}) == [group_id(made(0))]
    assert windows == {}


def test_what_was_read_gathers_no_more() -> None:
    windows: Windows = {}
    joined(windows, 1)
    joined(windows, 2)
    windows = forget(windows, [made(1)])
    assert joined(windows, 3) is None
    assert joined(windows, 4) == Joined(group_id(made(2)), 3, [made(2), made(3)])


def test_a_group_that_was_read_takes_no_more() -> None:
    windows: Windows = {}
    for number in range(3):
        joined(windows, number)
    assert forget(windows, [group_id(made(0))]) == {}


def test_a_window_whose_last_leading_was_read_is_gone() -> None:
    windows: Windows = {}
    joined(windows, 1)
    assert forget(windows, [made(1)]) == {}


def test_reading_something_else_changes_nothing() -> None:
    windows: Windows = {}
    joined(windows, 1)
    assert forget(windows, [made(9)]) == windows


class Gathering(RuleBasedStateMachine):
    """One user, one window, any order of arrivals, readings and pauses; windows kept as JSON in between."""

    shown = Bundle("shown")

    def __init__(self) -> None:
        super().__init__()
        self.windows: Windows = {}
        self.now, self.number = START, 0
        self.own: set[UUID] = set()
        self.members: dict[UUID, set[UUID]] = {}
        self.open: UUID | None = None
        self.arrived: set[UUID] = set()

    @rule(target=shown, late=st.integers(0, 90_000))
    def arrives(self, late: int) -> UUID:
        self.number += 1
        at = self.now - late
        id_ = made(self.number, at)
        self.arrived.add(id_)
        ended = end_old(self.windows, at, {"comment": HOUR})
        assert ended in ([], [self.open])
        if ended:
            self.open = None
        found = join(self.windows, NAME, id_, at, 3, HOUR)
        if found is None:
            assert self.open is None
            self.own.add(id_)
            return id_
        if found.leading:
            assert self.open is None
            assert found.group not in self.members
            assert self.own.issuperset(found.leading)
            self.own.difference_update(found.leading)
            self.members[found.group] = set(found.leading)
            self.open = found.group
        assert found.group == self.open
        self.members[found.group].add(id_)
        assert found.total == len(self.members[found.group])
        return found.group

    @rule(id_=consumes(shown))
    def is_read(self, id_: UUID) -> None:
        self.windows = forget(self.windows, [id_])
        if id_ == self.open:
            self.open = None

    @rule(minutes=st.integers(0, 70))
    def time_passes(self, minutes: int) -> None:
        self.now += minutes * 60_000

    @rule()
    def is_written_and_read_back(self) -> None:
        self.windows = msgspec.json.decode(msgspec.json.encode(self.windows))

    @invariant()
    def none_is_lost_and_none_counts_twice(self) -> None:
        folded = [id_ for members in self.members.values() for id_ in members]
        assert len(folded) == len(set(folded))
        assert self.own.isdisjoint(folded)
        assert self.own | set(folded) == self.arrived

    @invariant()
    def one_group_at_most_is_open(self) -> None:
        groups = [window["group"] for window in self.windows.values() if window["group"]]
        assert groups == ([str(self.open)] if self.open else [])

    @invariant()
    def few_lead(self) -> None:
        for window in self.windows.values():
            assert len(window["leading"]) <= 2
            assert not (window["group"] and window["leading"])
            assert window["group"] or window["leading"]


TestGathering = Gathering.TestCase
TestGathering.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
