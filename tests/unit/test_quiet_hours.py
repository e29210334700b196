"""Quiet hours: when the quiet ends that holds at a moment, day by day and through every change of the clocks."""

from bisect import bisect_left
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from pipelines.quiet_hours import QuietHours, instant, until, whole_week, zone_of

MON, TUE, WED, THU, FRI, SAT, SUN = range(1, 8)
WEEK = frozenset(range(1, 8))
BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


def hours(text: str, zone: str = BERLIN, days: frozenset[int] = WEEK) -> QuietHours:
    """hours("22:00-07:00")"""
    begin, end = map(time.fromisoformat, text.split("-"))
    return QuietHours(days, begin, end, zone)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


WEEKDAYS = frozenset({MON, TUE, WED, THU, FRI})


@pytest.mark.parametrize(
    ("who", "when", "ends"),
    [
        # an ordinary week: 2026-06-01 is a Monday, Berlin is two hours ahead of UTC
        (hours("22:00-07:00"), "2026-06-01 19:59:59", None),
        (hours("22:00-07:00"), "2026-06-01 20:00", "2026-06-02 05:00"),
        (hours("22:00-07:00"), "2026-06-01 23:30", "2026-06-02 05:00"),
        (hours("22:00-07:00"), "2026-06-02 04:59:59", "2026-06-02 05:00"),
        (hours("22:00-07:00"), "2026-06-02 05:00", None),
        (hours("12:00-13:30"), "2026-06-01 10:30", "2026-06-01 11:30"),
        (hours("12:00-13:30"), "2026-06-01 11:30", None),
        (hours("12:00-00:00"), "2026-06-01 21:59", "2026-06-01 22:00"),
        # the day is the one on which they begin
        (hours("22:00-07:00", days=frozenset({FRI})), "2026-06-06 03:00", "2026-06-06 05:00"),
        (hours("22:00-07:00", days=frozenset({FRI})), "2026-06-05 03:00", None),
        (hours("22:00-07:00", days=frozenset({SAT})), "2026-06-06 03:00", None),
        (hours("22:00-07:00", days=frozenset({SUN})), "2026-06-08 03:00", "2026-06-08 05:00"),
        (hours("22:00-07:00", days=frozenset()), "2026-06-06 03:00", None),
        # from a time to the same: 24 hours; what follows without a break is one
        (hours("00:00-00:00", days=frozenset({SUN})), "2026-06-07 10:00", "2026-06-07 22:00"),
        (hours("18:00-18:00", days=frozenset({SAT, SUN})), "2026-06-06 16:00", "2026-06-08 16:00"),
        (hours("00:00-00:00", days=frozenset({SAT, SUN})), "2026-06-05 23:00", "2026-06-07 22:00"),
        (hours("00:00-00:00", days=WEEKDAYS), "2026-06-01 12:00", "2026-06-05 22:00"),
        # elsewhere it is another day
        (hours("22:00-07:00", NEW_YORK, frozenset({MON})), "2026-06-02 02:00", "2026-06-02 11:00"),
        (hours("22:00-07:00", LORD_HOWE, frozenset({TUE})), "2026-06-02 11:30", "2026-06-02 20:30"),
        (hours("22:00-07:00", "Asia/Kathmandu"), "2026-06-01 16:15", "2026-06-02 01:15"),
        (hours("22:00-07:00", "Mars/Base"), "2026-06-01 22:00", "2026-06-02 07:00"),
        # Berlin, 29 March 2026: from 02:00 to 03:00 at 01:00 UTC
        (hours("22:00-07:00"), "2026-03-28 23:00", "2026-03-29 05:00"),
        (hours("22:00-02:30"), "2026-03-29 00:59", "2026-03-29 01:00"),
        (hours("22:00-02:30"), "2026-03-29 01:00", None),
        (hours("02:30-07:00"), "2026-03-29 00:59", None),
        (hours("02:30-07:00"), "2026-03-29 01:00", "2026-03-29 05:00"),
        (hours("02:00-03:00"), "2026-03-29 00:30", None),
        (hours("02:00-03:00"), "2026-03-29 01:00", None),
        (hours("02:15-02:45"), "2026-03-29 01:00", None),
        # Berlin, 25 October 2026: from 03:00 back to 02:00 at 01:00 UTC
        (hours("22:00-07:00"), "2026-10-24 23:00", "2026-10-25 06:00"),
        (hours("22:00-02:30"), "2026-10-25 00:45", "2026-10-25 01:30"),
        (hours("22:00-02:30"), "2026-10-25 01:29", "2026-10-25 01:30"),
        (hours("02:30-07:00"), "2026-10-25 00:29", None),
        (hours("02:30-07:00"), "2026-10-25 00:30", "2026-10-25 06:00"),
        (hours("02:30-07:00"), "2026-10-25 01:15", "2026-10-25 06:00"),
        (hours("02:00-03:00"), "2026-10-25 00:00", "2026-10-25 02:00"),
        # New York, 8 March 2026: from 02:00 to 03:00 at 07:00 UTC
        (hours("23:00-02:30", NEW_YORK), "2026-03-08 06:59", "2026-03-08 07:00"),
        (hours("02:30-08:00", NEW_YORK), "2026-03-08 07:00", "2026-03-08 12:00"),
        # New York, 1 November 2026: from 02:00 back to 01:00 at 06:00 UTC
        (hours("23:00-01:30", NEW_YORK), "2026-11-01 05:45", "2026-11-01 06:30"),
        (hours("01:30-08:00", NEW_YORK), "2026-11-01 05:30", "2026-11-01 13:00"),
        # Lord Howe, 4 October 2026: from 02:00 to 02:30 at 15:30 UTC the day before
        (hours("22:00-02:15", LORD_HOWE), "2026-10-03 15:29", "2026-10-03 15:30"),
        (hours("02:15-07:00", LORD_HOWE), "2026-10-03 15:30", "2026-10-03 20:00"),
        # Lord Howe, 5 April 2026: from 02:00 back to 01:30 at 15:00 UTC the day before
        (hours("22:00-01:45", LORD_HOWE), "2026-04-04 14:50", "2026-04-04 15:15"),
        (hours("01:45-07:00", LORD_HOWE), "2026-04-04 14:45", "2026-04-04 20:30"),
        # Samoa had no 30 December 2011: its hours begin when the clock jumps past it
        (hours("22:00-07:00", "Pacific/Apia", frozenset({FRI})), "2011-12-30 10:00", "2011-12-30 17:00"),
    ],
)
def test_until(who: QuietHours, when: str, ends: str | None) -> None:
    assert until(who, utc(when)) == (utc(ends) if ends else None)


def test_a_moment_may_be_told_in_any_zone() -> None:
    now = utc("2026-06-01 23:30")
    for zone in (BERLIN, LORD_HOWE, NEW_YORK):
        assert until(hours("22:00-07:00"), now.astimezone(ZoneInfo(zone))) == utc("2026-06-02 05:00")


def test_a_week_without_a_break_is_asked_again() -> None:
    always = hours("08:00-08:00")
    now = utc("2026-06-01 12:00")
    ends = until(always, now)
    assert ends
    assert timedelta(days=6) < ends - now < timedelta(days=9)
    assert whole_week(always)
    assert not whole_week(hours("08:00-08:00", days=WEEKDAYS))
    assert not whole_week(hours("08:00-07:59"))


@pytest.mark.parametrize("zone", [None, "", "Mars/Base", "../../etc/passwd", "/etc/passwd", "a\0b", "Europe"])
def test_a_zone_that_is_none_is_utc(zone: str | None) -> None:
    assert instant(date(2026, 6, 1), time(9), zone_of(zone)) == utc("2026-06-01 09:00")


MINUTE = timedelta(minutes=1)
CHANGES = {
    BERLIN: ("2026-03-29 01:00", "2026-10-25 01:00"),
    NEW_YORK: ("2026-03-08 07:00", "2026-11-01 06:00"),
    LORD_HOWE: ("2026-04-04 15:00", "2026-10-03 15:30"),
    "Africa/Cairo": ("2026-04-23 22:00", "2026-10-29 21:00"),  # at midnight
}


@cache
def clock(zone: str, change: str) -> tuple[datetime, list[datetime], dict[datetime, list[int]], list[datetime]]:
    """What a clock on the wall shows, minute by minute, from 5 days before a change until 12 after it; where it
    shows each time; and the highest it has shown so far."""
    start = utc(change) - timedelta(days=5)
    here = ZoneInfo(zone)
    shown = [(start + n * MINUTE).astimezone(here).replace(tzinfo=None) for n in range(17 * 1440)]
    places: dict[datetime, list[int]] = {}
    highest = [shown[0]]
    for place, wall in enumerate(shown):
        places.setdefault(wall, []).append(place)
        highest.append(max(highest[-1], wall))
    return start, shown, places, highest[1:]


def model(who: QuietHours, change: str, now: int) -> int | None:
    """The same by walking through the minutes: those that are quiet are marked, day by day."""
    _, shown, places, highest = clock(who.zone, change)

    def place(wall: datetime, which: int) -> int:
        return places[wall][which] if wall in places else bisect_left(highest, wall)

    quiet = bytearray(len(shown))
    day, last = shown[0].date() + timedelta(days=1), shown[-1].date() - timedelta(days=2)
    while day <= last:
        if day.isoweekday() in who.days:
            begin = place(datetime.combine(day, who.begin), 0)
            ends_on = day if who.end > who.begin else day + timedelta(days=1)
            end = place(datetime.combine(ends_on, who.end), -1)
            if end > begin:
                quiet[begin:end] = b"\1" * (end - begin)
        day += timedelta(days=1)
    return quiet.index(0, now) if quiet[now] else None


@settings(max_examples=400, deadline=None)
@given(
    change=some.sampled_from([(zone, at) for zone, both in CHANGES.items() for at in both]),
    days=some.frozensets(some.integers(1, 7)),
    begin=some.integers(0, 1439) | some.integers(0, 12).map(lambda n: n * 15),
    end=some.integers(0, 1439) | some.integers(0, 12).map(lambda n: n * 15),
    minutes=some.integers(-180, 180) | some.integers(-2 * 1440, 2 * 1440),
    seconds=some.integers(0, 59),
)
def test_every_minute_is_as_a_clock_on_the_wall_shows_it(
    change: tuple[str, str], days: frozenset[int], begin: int, end: int, minutes: int, seconds: int
) -> None:
    zone, at = change
    who = QuietHours(days, time(begin // 60, begin % 60), time(end // 60, end % 60), zone)
    if whole_week(who):
        return
    start = clock(zone, at)[0]
    now = 5 * 1440 + minutes
    expected = model(who, at, now)
    found = until(who, start + now * MINUTE + timedelta(seconds=seconds))
    assert found == (None if expected is None else start + expected * MINUTE)
