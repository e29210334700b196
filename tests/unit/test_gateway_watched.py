"""What one user is told of what is heard: the rules of workers/gateway/watched.py, without servers."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from schema.wire import InboxItem, Publication
from workers.gateway.connection import Connection
from workers.gateway.inbox import State
from workers.gateway.watched import Watched, gap

AT = datetime(2026, 1, 1, tzinfo=UTC)


def item(seq, **fields):
    usual = {"type": "comment", "category": "social", "importance": "normal", "title": "t", "message": "m"}
    usual |= {"data": {}, "action_url": None, "created_at": AT, "read": False}
    return InboxItem(id=UUID(int=seq), seq=seq, **(usual | fields))


def heard(seq, version=None, unread=1, **fields):
    return Publication("notification", version or seq, unread, item(seq, **fields))


@pytest.fixture
def connection():
    return Connection("ada", 0.0, "sse", lambda: None)


@pytest.fixture
def watched(connection):
    """A user at place 3, version 3, with one unread and one browser."""
    made = Watched("ada", {connection})
    made.read(State(3, 3, 1))
    connection.begin(3, 3, gap("changed"))
    return made


def told(connection):
    return [(event.name, event.seq) for event in connection.take()]


def test_the_next_place_is_handed_on_at_once(watched, connection):
    watched.hear(heard(4))
    assert told(connection) == [("notification", 4), ("unread-count", None)]
    assert not watched.misses_rows


def test_a_repeated_place_is_dropped(watched, connection):
    for seq in (3, 2, 1):
        watched.hear(heard(seq))
    assert told(connection) == []
    assert not watched.misses_rows


def test_a_place_beyond_the_next_waits_for_what_is_missing(watched, connection):
    watched.hear(heard(6))
    assert watched.misses_rows
    assert told(connection) == [("unread-count", None)]
    watched.hand_on_until([item(4), item(5), item(6)], 6, 10)
    assert told(connection) == [("notification", 4), ("notification", 5), ("notification", 6)]
    assert not watched.misses_rows


def test_rows_that_were_told_meanwhile_are_not_told_again(watched, connection):
    watched.hear(heard(6))
    for seq in (4, 5):
        watched.hear(heard(seq, version=6))
    told(connection)
    assert watched.hand_on_until([item(4), item(5), item(6)], 6, 10) == [item(6)]
    assert told(connection) == [("notification", 6)]


def test_places_that_hold_no_row_any_more_are_passed(watched, connection):
    watched.hear(heard(6))
    watched.hand_on_until([], 6, 10)
    assert not watched.misses_rows
    watched.hear(heard(7))
    assert told(connection) == [("notification", 7), ("unread-count", None)]


def test_what_is_older_than_a_change_is_fetched_although_it_is_next(watched, connection):
    watched.hear(Publication("read", 9, 0))
    assert told(connection) == [("read", None), ("unread-count", None)]
    watched.hear(heard(4, version=8))
    assert told(connection) == []
    assert watched.misses_rows


def test_several_of_one_batch_have_one_version(watched, connection):
    watched.hear(heard(4, version=4))
    watched.hear(heard(5, version=4))
    assert told(connection) == [("notification", 4), ("notification", 5), ("unread-count", None)]


def test_an_archived_row_is_passed_in_silence(watched, connection):
    watched.hear(heard(4, archived_at=AT))
    watched.hear(heard(5))
    assert told(connection) == [("notification", 5), ("unread-count", None)]


def test_an_older_count_never_replaces_a_newer_one(watched):
    watched.hear(Publication("read", 8, 5, ids=[UUID(int=1)]))
    watched.hear(Publication("read", 7, 6, ids=[UUID(int=2)]))
    assert (watched.version, watched.unread) == (8, 5)


def test_rows_read_are_told_however_late(watched, connection):
    watched.hear(Publication("archived", 9, 0, ids=[UUID(int=1)]))
    watched.hear(Publication("read", 8, 0, ids=[UUID(int=2)]))
    assert [name for name, _ in told(connection)] == ["archived", "read", "unread-count"]


def test_before_the_inbox_is_read_nothing_is_handed_on():
    connection = Connection("ada", 0.0, "sse", lambda: None)
    watched = Watched("ada", {connection})
    watched.hear(heard(4))
    assert not watched.misses_rows
    assert watched.read(State(3, 3, 1)) == State(3, 4, 1), "its count is newer"
    assert watched.misses_rows


def test_a_second_reading_that_saw_more_makes_known_what_is_missing(watched):
    watched.read(State(5, 5, 3))
    assert watched.misses_rows


def test_a_second_reading_does_not_hide_a_change_from_the_first_browser(watched):
    assert watched.read(State(3, 5, 0)) == State(3, 5, 0)
    assert watched.version == 3, "so that comparing finds the change"
    assert watched.is_behind(State(3, 5, 0))


@pytest.mark.parametrize(
    ("state", "rows", "expected"),
    [
        (State(4, 4, 2), [4], ["notification", "unread-count"]),
        (State(4, 5, 1), [4], ["notification", "gap", "unread-count"]),
        (State(3, 4, 0), [], ["gap", "unread-count"]),
        (State(3, 4, 1), [], ["gap", "unread-count"]),
        (State(4, 4, 1), [], ["gap", "unread-count"]),
        (State(3, 3, 1), [], []),
    ],
)
def test_what_rows_do_not_explain_is_a_reason_to_reload(watched, connection, state, rows, expected):
    watched.make_good(state, [item(seq) for seq in rows], window=10)
    assert [name for name, _ in told(connection)] == expected
    assert not watched.is_behind(state)


def test_more_than_the_window_is_a_gap(watched, connection):
    watched.make_good(State(9, 9, 7), [item(seq) for seq in range(4, 10)], window=5)
    assert ("gap", 9) in told(connection)
    assert watched.seq == 9


def test_an_inbox_that_went_back_is_followed(watched, connection):
    watched.start_over(State(1, 1, 1))
    assert told(connection) == [("gap", 1), ("unread-count", None)]
    watched.hear(heard(2))
    assert told(connection) == [("notification", 2), ("unread-count", None)]
