"""What waits to be written to one browser: each place once, a bound, and only the newest count."""

import pytest

from workers.gateway.connection import BOUND, Connection, Event

RELOAD = Event("gap", b'{"reason":"changed"}')


def told(seq):
    return Event("notification", b"{}", seq)


def count(number, version):
    return Event("unread-count", b'{"count":%d}' % number, version=version)


@pytest.fixture
def woken():
    return []


@pytest.fixture
def connection(woken):
    made = Connection("ada", 0.0, "sse", lambda: woken.append(1))
    made.begin(3, 3, RELOAD)
    return made


def test_a_place_is_told_once(connection):
    connection.push([told(2), told(3), told(4)])
    connection.push([told(4), told(5)])
    assert [event.seq for event in connection.take()] == [4, 5]
    assert connection.take() == []
    assert connection.seq == 5


def test_only_the_newest_count_waits_and_comes_last(connection):
    connection.push_count(count(1, 4))
    connection.push([told(4)])
    connection.push_count(count(2, 5))
    assert [event.name for event in connection.take()] == ["notification", "unread-count"]
    connection.push_count(count(3, 6))
    assert connection.take() == [count(3, 6)]


def test_every_push_wakes(connection, woken):
    connection.push([told(3)])
    assert woken == [], "nothing new"
    connection.push([told(4)])
    connection.push_count(count(1, 4))
    connection.end("slow")
    connection.end("shutdown")
    assert len(woken) == 3
    assert connection.ended == "slow"


def test_one_too_many_ends_it(connection):
    for seq in range(4, 4 + BOUND):
        connection.push([told(seq)])
    assert connection.ended is None
    connection.push([told(100)])
    assert connection.ended == "slow"
    assert connection.take() == [], "what waited is let go"
    connection.push([told(101)])
    assert connection.take() == []


def test_a_filled_gap_may_pass_the_bound_once(connection):
    connection.push([told(seq) for seq in range(4, 504)])
    assert connection.ended is None
    connection.push([told(504)])
    assert connection.ended == "slow"


def test_what_came_before_the_inbox_was_read_goes_on_only_if_it_is_newer():
    connection = Connection("ada", 0.0, "sse", lambda: None)
    read_one, archived = Event("read", b'{"ids":[]}'), Event("archived", b'{"ids":[]}')
    connection.push([told(2), told(3), read_one])
    connection.push([told(4), archived])
    connection.push_count(count(7, 3))
    connection.begin(3, 3, RELOAD)
    assert connection.take() == [read_one, told(4), archived]
    connection.push([told(4), told(5)])
    assert connection.take() == [told(5)]


def test_a_newer_count_outlives_the_reading():
    connection = Connection("ada", 0.0, "sse", lambda: None)
    connection.push_count(count(7, 4))
    connection.begin(3, 3, RELOAD)
    assert connection.take() == [count(7, 4)]


@pytest.mark.parametrize(("version", "expected"), [(2, "gap"), (3, "read"), (4, "read")])
def test_a_read_all_older_than_the_reading_becomes_a_reload(version, expected):
    connection = Connection("ada", 0.0, "sse", lambda: None)
    connection.push([Event("read", b'{"all":true}', version=version)])
    connection.begin(3, 3, RELOAD)
    assert [event.name for event in connection.take()] == [expected]


def test_an_inbox_that_went_back_begins_anew(connection):
    connection.reset(Event("gap", b"{}", 1))
    connection.push([told(1), told(2)])
    assert [event.seq for event in connection.take()] == [1, 2]
