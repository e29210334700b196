"""The rule by which notifications gather: windows, leading members, groups that form, grow, interrupt and end."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from pipelines.kinds import Duration, Grouping
from pipelines.windows import (
    MOST,
    NAMED,
    REMEMBERED,
    Joined,
    Rule,
    Who,
    Windows,
    end_old,
    forget,
    interrupt,
    join,
)
from schema.identity import group_id, notification_id

MINUTE = 60_000
HOUR = 60 * MINUTE
START = 1_800_000_000_000
NAME = "comment/post-9"
HOURLY = Rule(3, HOUR)
BOB, EVE = ("bob-id", "Bob"), ("eve-id", "Eve")


def made(number: int, at: int = START) -> UUID:
    return notification_id(at, str(number), "ada")


def joined(windows: Windows, number: int, at: int = START, rule: Rule = HOURLY, **more: Any) -> Joined | None:
    return join(windows, NAME, made(number), at, rule, **more)


def of(first: int, total: int, *leading: int) -> Joined:
    """A group named after notification `first`; of nobody in particular."""
    return Joined(group_id(made(first)), total, [made(one) for one in leading], total)


# The way of one user's inbox, minute by minute. A letter is what happens:
#   n  a notification comes    f  one comes that is over its limit, and folded    r  everything is read
# and what becomes of it:
#   .  a row of its own    1, 2, …  member of a group that now has so many members
CASES = [
    ("the third within an hour makes a group of all", {}, "0n. 1n. 2n3 3n4"),
    ("at a threshold of two, the second", {"threshold": 2}, "0n. 1n2 2n3"),
    ("at a threshold of five, the fifth", {"threshold": 5}, "0n. 0n. 0n. 0n. 0n5"),
    ("what is an hour old leads no more", {}, "0n. 1n. 60n. 60n3"),
    ("… and what is not yet an hour old does", {}, "0n. 1n. 59n3"),
    ("each that joins makes the window longer", {}, "0n. 0n. 0n3 59n4 118n5 177n6"),
    ("an hour of silence ends it", {}, "0n. 0n. 0n3 60n. 60n. 60n3"),
    ("the cap ends it, however busy it is", {"longest": "2h"}, "0n. 0n. 0n3 50n4 100n5 119n6 120n. 121n. 122n3"),
    (
        "the cap counts from the first member, not from when it formed",
        {"longest": "1h"},
        "0n. 30n. 59n3 60n. 61n.",
    ),
    ("reading closes it, and what comes next begins anew", {}, "0n. 0n. 0n3 1r 1n. 2n. 3n3"),
    ("what was read before leads no more", {}, "0n. 0n. 1r 1n. 1n. 1n3"),
    ("a folded one joins the group", {}, "0n. 0n. 0n3 1f4 2n5"),
    ("a folded one forms a group at once with what leads", {}, "0n. 1f2 2n3"),
    ("a folded one with nothing to join has a row of its own", {}, "0f. 1n. 2n3"),
    ("… and the next folded one joins that", {}, "0n. 1r 2f. 3f2 4f3"),
    ("a folded one does not keep what is an hour old", {}, "0n. 60f. 61f2"),
]


@pytest.mark.parametrize(("changes", "way"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_becomes_of_each(changes: dict[str, Any], way: str) -> None:
    longest = {"1h": HOUR, "2h": 2 * HOUR}.get(changes.get("longest", ""))
    rule = Rule(changes.get("threshold", 3), HOUR, longest)
    windows: Windows = {}
    shown = list[UUID]()
    for number, step in enumerate(way.split()):
        digits = step[: next(place for place, letter in enumerate(step) if not letter.isdigit())]
        at, what, becomes = START + int(digits) * MINUTE, step[len(digits)], step[len(digits) + 1 :]
        if what == "r":
            windows = forget(windows, shown)
            continue
        end_old(windows, at, {"comment": rule})
        found = joined(windows, number, at, rule, folded=what == "f")
        shown.append(found.group if found else made(number))
        assert ("." if found is None else str(found.total)) == becomes, step


def test_the_group_takes_the_rows_of_those_that_led() -> None:
    windows: Windows = {}
    assert joined(windows, 1) is None
    assert joined(windows, 2, START + 1) is None
    assert joined(windows, 3, START + 2) == of(1, 3, 1, 2)
    assert joined(windows, 4, START + 3) == of(1, 4)


def test_windows_do_not_mix() -> None:
    windows: Windows = {}
    for number in range(2):
        join(windows, "comment/a", made(number), START, HOURLY)
        join(windows, "comment/b", made(10 + number), START, HOURLY)
    assert join(windows, "comment/a", made(2), START, HOURLY) == of(0, 3, 0, 1)


def test_a_late_one_does_not_turn_a_window_back() -> None:
    """One that comes by a clock that was behind leaves the window its length."""
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
    join(windows, "like/", made(7), START, HOURLY)
    join(windows, "comment/new", made(8), START + 1, HOURLY)
    rules = {"comment": HOURLY, "like": HOURLY}
    assert end_old(windows, START + HOUR - 1, rules) == []
    assert len(windows) == 3
    assert end_old(windows, START + HOUR, rules) == [group_id(made(0))]
    assert list(windows) == ["comment/new"]


def test_a_type_that_groups_no_more_ends_at_once() -> None:
    windows: Windows = {}
    for number in range(3):
        joined(windows, number)
    assert end_old(windows, START, {}) == [group_id(made(0))]
    assert windows == {}


def test_an_inbox_keeps_only_so_many_windows_and_ends_those_first_that_were_quiet_for_longest() -> None:
    windows: Windows = {}
    for number in range(MOST + 5):
        for _ in range(3 if number == 2 else 1):
            join(windows, f"comment/{number}", made(number), START + number, HOURLY)
    assert end_old(windows, START + MOST + 5, {"comment": HOURLY}) == [group_id(made(2))]
    assert list(windows) == [f"comment/{number}" for number in range(5, MOST + 5)]


def test_windows_of_one_moment_do_not_end_each_other() -> None:
    """All are of one batch, which has not written its groups yet."""
    windows: Windows = {}
    for number in range(2 * MOST):
        end_old(windows, START, {"comment": HOURLY})
        join(windows, f"comment/{number}", made(number), START, HOURLY)
    assert len(windows) == 2 * MOST


def test_what_was_read_gathers_no_more() -> None:
    windows: Windows = {}
    joined(windows, 1)
    joined(windows, 2)
    windows = forget(windows, [made(1)])
    assert joined(windows, 3) is None
    assert joined(windows, 4) == of(2, 3, 2, 3)


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


@pytest.mark.parametrize(
    ("people", "count", "actors"),
    [
        ([BOB, EVE, ("kim-id", "Kim")], 3, ("Kim", "Eve", "Bob")),
        ([BOB, BOB, BOB, BOB], 1, ("Bob",)),
        ([BOB, EVE, BOB], 2, ("Bob", "Eve")),
        ([BOB, ("other-id", "Bob"), BOB], 2, ("Bob", "Bob")),
        ([BOB, EVE, ("bob-id", "Robert")], 2, ("Robert", "Eve")),
        ([None, None, BOB, None], 4, ("Bob",)),
        ([None, None, None], 3, ()),
        ([(str(n), f"N{n}") for n in range(9)], 9, ("N8", "N7", "N6")),
    ],
    ids=["three", "one alone", "one again", "namesakes", "a new name", "one is known", "none", "many"],
)
def test_who_did_it(people: list[Who | None], count: int, actors: tuple[str, ...]) -> None:
    windows: Windows = {}
    for number, who in enumerate(people):
        found = joined(windows, number, who=who)
        windows = msgspec.json.decode(msgspec.json.encode(windows))
    assert found is not None
    assert (found.people, found.actors) == (count, actors)
    assert len(actors) <= NAMED


def test_only_the_last_people_are_remembered() -> None:
    """So that a window stays small; who comes back after many others counts once more."""
    windows: Windows = {}
    for number in range(REMEMBERED + 5):
        joined(windows, number, who=(str(number), f"N{number}"))
    again = joined(windows, 100, who=(str(REMEMBERED + 4), "N"))
    assert again is not None
    assert again.people == REMEMBERED + 5
    assert len(windows[NAME]["who"]) == REMEMBERED
    again = joined(windows, 101, who=("0", "N0"))
    assert again is not None
    assert again.people == REMEMBERED + 6


@pytest.mark.parametrize(
    ("minutes", "told"),
    [
        ([0, 1, 9, 10, 11, 19, 20], [0, 10, 20]),
        ([0, 30, 35], [0, 30]),
        ([0, 0, 0], [0]),
        ([0, 9.99, 9.999], [0]),
    ],
)
def test_a_group_interrupts_at_first_and_then_at_most_every_so_long(
    minutes: list[float], told: list[float]
) -> None:
    window = dict[str, Any]()
    interrupted = []
    for minute in minutes:
        at = START + int(minute * MINUTE)
        if interrupt(window, ["email", "push"], at, 10 * MINUTE) == []:
            interrupted.append(minute)
        window = msgspec.json.decode(msgspec.json.encode(window))
    assert interrupted == told


def test_each_channel_is_rationed_by_itself() -> None:
    window = dict[str, Any]()
    assert interrupt(window, ["email"], START, 10 * MINUTE) == []
    assert interrupt(window, ["email", "push"], START + 1, 10 * MINUTE) == ["email"]
    assert interrupt(window, ["push"], START + 2, 10 * MINUTE) == ["push"]
    assert interrupt(window, ["email"], START + 10 * MINUTE, 10 * MINUTE) == []


def test_without_a_pause_every_one_interrupts() -> None:
    """A critical one: it passes, and it counts."""
    window = dict[str, Any]()
    interrupt(window, ["push"], START, 10 * MINUTE)
    assert interrupt(window, ["push"], START + 1, 0) == []
    assert interrupt(window, ["push"], START + 10 * MINUTE, 10 * MINUTE) == ["push"]


def test_windows_of_the_version_before_go_on() -> None:
    """They say nothing of people, of interruptions, and of when they began."""
    group = group_id(made(1))
    before = {"leading": [], "group": str(group), "count": 7, "at": START}
    leading = {"leading": [[str(made(2)), START], [str(made(3)), START]], "group": None, "count": 0, "at": START}
    windows: Windows = {NAME: before, "comment/": leading}
    rule = Rule(3, HOUR, HOUR, MINUTE)
    assert end_old(windows, START + 1, {"comment": rule}) == []
    assert joined(windows, 9, START + 1, rule, who=BOB) == Joined(group, 8, [], 8, ("Bob",))
    found = join(windows, "comment/", made(4), START + 1, rule, EVE)
    assert found == Joined(group_id(made(2)), 3, [made(2), made(3)], 3, ("Eve",))
    assert interrupt(windows[NAME], ["push"], START, MINUTE) == []


def test_a_rule_is_the_types_in_milliseconds() -> None:
    said = Grouping(3, Duration(hours=1), longest=Duration(days=1), interrupt=Duration(minutes=10))
    assert Rule.of(said) == Rule(3, HOUR, 24 * HOUR, 10 * MINUTE)
    assert Rule.of(Grouping(2, Duration(seconds=1))) == Rule(2, 1000, None, None)
    assert timedelta(milliseconds=Rule.of(said).lasts) == said.window


@dataclass
class Group:
    """In the model: all there is to know of one."""

    name: UUID
    since: int
    members: list[tuple[UUID, Who | None]]
    told: list[int] = field(default_factory=list)

    @property
    def people(self) -> int:
        known = {who[0] for _, who in self.members if who}
        return len(known) + sum(who is None for _, who in self.members)


class Gathering(RuleBasedStateMachine):
    """One user, one window, any order of arrivals, readings and pauses, against a model that forgets nothing."""

    shown = Bundle("shown")

    def __init__(self) -> None:
        super().__init__()
        self.windows: Windows = {}
        self.now, self.number, self.last = START, 0, 0
        self.alone: list[tuple[UUID, int, Who | None]] = []
        self.group: Group | None = None
        self.closed: list[Group] = []
        self.rows: set[UUID] = set()
        self.arrived: set[UUID] = set()

    @initialize(
        threshold=st.integers(2, 4), longest=st.sampled_from([None, HOUR, 2 * HOUR]), pause=st.integers(1, HOUR)
    )
    def begin(self, threshold: int, longest: int | None, pause: int) -> None:
        self.rule = Rule(threshold, HOUR, longest, pause)

    @rule(
        target=shown,
        late=st.sampled_from([0, 0, 0, 1, 90_000]),
        who=st.sampled_from([None, BOB, EVE, ("kim", "Kim"), ("lin", "Lin")]),
        folded=st.booleans(),
    )
    def arrives(self, late: int, who: Who | None, folded: bool) -> UUID:
        self.number += 1
        at = self.now - late
        id_ = made(self.number, at)
        self.arrived.add(id_)
        ended = end_old(self.windows, at, {"comment": self.rule})
        found = join(self.windows, NAME, id_, at, self.rule, who, folded=folded)
        assert ended == self.expect_ends(at)
        group = self.expect_group(id_, at, who, folded=folded)
        if group is None:
            assert found is None
            self.rows.add(id_)
            return id_
        assert found is not None
        assert (found.group, found.total, found.people) == (group.name, len(group.members), group.people)
        self.rows -= set(found.leading)
        named = [who[1] for _, who in reversed(group.members) if who]
        assert list(found.actors) == list(dict.fromkeys(named))[:NAMED]
        rationed = interrupt(self.windows[NAME], ["push"], at, self.rule.interrupt or 0)
        told = [then for then in group.told if at - then < (self.rule.interrupt or 0)]
        assert rationed == (["push"] if told else [])
        if not rationed:
            group.told.append(at)
        return found.group

    def expect_ends(self, at: int) -> list[UUID]:
        group, longest = self.group, self.rule.longest
        over = self.last <= at - HOUR or (group and longest and group.since <= at - longest)
        if not over:
            return []
        self.alone, self.group = [], None
        if group:
            self.closed.append(group)
        return [group.name] if group else []

    def expect_group(self, id_: UUID, at: int, who: Who | None, *, folded: bool) -> Group | None:
        self.last = max(self.last, at) if self.alone or self.group else at
        self.alone = [one for one in self.alone if one[1] > at - HOUR]
        if self.group:
            self.group.members.append((id_, who))
        elif len(self.alone) + 1 >= (2 if folded else self.rule.threshold):
            members = [(one, did) for one, _, did in self.alone]
            self.group = Group(group_id(members[0][0]), self.alone[0][1], [*members, (id_, who)])
            self.alone = []
        else:
            self.alone.append((id_, at, who))
        return self.group

    @rule(id_=consumes(shown))
    def is_read(self, id_: UUID) -> None:
        self.windows = forget(self.windows, [id_])
        self.alone = [one for one in self.alone if one[0] != id_]
        if self.group and self.group.name == id_:
            self.closed.append(self.group)
            self.group = None

    @rule(minutes=st.integers(0, 70))
    def time_passes(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @rule()
    def is_written_and_read_back(self) -> None:
        self.windows = msgspec.json.decode(msgspec.json.encode(self.windows))

    @invariant()
    def none_is_lost_and_none_counts_twice(self) -> None:
        groups = [*self.closed, *([self.group] if self.group else [])]
        members = [id_ for group in groups for id_, _ in group.members]
        assert len(members) == len(set(members))
        assert self.rows.isdisjoint(members)
        assert self.rows | set(members) == self.arrived

    @invariant()
    def one_group_at_most_is_open(self) -> None:
        groups = [window["group"] for window in self.windows.values() if window["group"]]
        assert groups == ([str(self.group.name)] if self.group else [])

    @invariant()
    def few_lead(self) -> None:
        for window in self.windows.values():
            assert len(window["leading"]) < self.rule.threshold
            assert not (window["group"] and window["leading"])
            assert window["group"] or window["leading"]


TestGathering = Gathering.TestCase
TestGathering.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
