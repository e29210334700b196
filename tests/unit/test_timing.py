"""When a channel is told: the rules as text, and the moments they lead to."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.timing import NOW, Schedule, Timing, Waits, next_time, parse, waits

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
ZONES = (BERLIN, NEW_YORK, LORD_HOWE, "Asia/Kathmandu", "Pacific/Apia", "UTC")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "timing"),
    [
        ("now", NOW),
        ("if offline", Timing("offline")),
        ("if unread after 15m", Timing("unread", timedelta(minutes=15))),
        ("digest 90s", Timing("digest", timedelta(seconds=90))),
        ("digest 7d", Timing("digest", timedelta(days=7))),
        ("digest hourly", Timing("digest", every="hourly")),
        ("digest daily", Timing("digest", every="daily")),
        ("digest weekly", Timing("digest", every="weekly")),
    ],
)
def test_every_rule_is_read_and_written(text: str, timing: Timing) -> None:
    assert parse(text) == timing
    assert str(timing) == text


THERE_ARE = (
    'is none of: true, false, "now", "if offline", "if unread after 15m", '
    '"digest 1h", "digest hourly", "digest daily", "digest weekly"'
)
A_LENGTH = " (how long: a whole number above 0, of up to five digits, and s, m, h or d)"
THE_TIME = " (the time of day is a setting of the user's: digest_at)"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", ""),
        ("later", ""),
        ("digest", ""),
        ("digest monthly", ""),
        ("if unread", ""),
        ("digest 1h\n", " (did you mean 'digest 1h'?)"),
        ("Digest  daily ", " (did you mean 'digest daily'?)"),
        ("digest dayly", " (did you mean 'digest daily'?)"),
        ("ofline", ""),
        ("offline", " (did you mean 'if offline'?)"),
        ("digest 0h", A_LENGTH),
        ("digest 1.5h", A_LENGTH),
        ("if unread after 15min", A_LENGTH),
        ("if unread after 999999d", A_LENGTH),
        ("digest daily 09:00", THE_TIME),
        ("digest weekly mon 9", THE_TIME),
    ],
)
def test_what_is_no_rule_is_told_what_one_looks_like(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match="is none of") as caught:
        parse(text)
    assert str(caught.value) == f"{text!r}{hint} {THERE_ARE}"


def test_a_long_text_that_is_no_rule_is_cut() -> None:
    with pytest.raises(ValueError, match=r"^'x{50}' is none of"):
        parse("x" * 1000)


@pytest.mark.parametrize(
    ("every", "now", "at", "day", "zone", "due"),
    [
        # the plain case: today if it is still to come, else the next
        ("daily", "2026-07-01 05:59", "08:00", 1, BERLIN, "2026-07-01 06:00"),
        ("daily", "2026-07-01 06:00", "08:00", 1, BERLIN, "2026-07-02 06:00"),
        ("daily", "2026-07-01 11:59", "08:00", 1, NEW_YORK, "2026-07-01 12:00"),
        ("daily", "2026-07-01 21:29", "08:00", 1, LORD_HOWE, "2026-07-01 21:30"),
        ("daily", "2026-07-01 07:00", "08:00", 1, None, "2026-07-01 08:00"),
        ("daily", "2026-07-01 07:00", "08:00", 1, "Nowhere/Land", "2026-07-01 08:00"),
        # weekly: 2026-07-01 is a Wednesday
        ("weekly", "2026-07-01 12:00", "08:00", 1, BERLIN, "2026-07-06 06:00"),
        ("weekly", "2026-07-01 05:00", "08:00", 3, BERLIN, "2026-07-01 06:00"),
        ("weekly", "2026-07-01 06:00", "08:00", 3, BERLIN, "2026-07-08 06:00"),
        ("weekly", "2026-07-04 23:00", "08:00", 7, NEW_YORK, "2026-07-05 12:00"),
        # the day is the user's: still Saturday in New York, already Sunday on Lord Howe
        ("weekly", "2026-07-05 01:00", "21:00", 6, NEW_YORK, "2026-07-12 01:00"),
        ("weekly", "2026-07-04 20:00", "08:00", 7, LORD_HOWE, "2026-07-04 21:30"),
        # summer time begins: 02:30 does not exist in Berlin on 2026-03-29, in New York on 2026-03-08; 02:15 not
        # on Lord Howe on 2026-10-04, where the clock jumps by half an hour
        ("daily", "2026-03-28 12:00", "02:30", 1, BERLIN, "2026-03-29 01:00"),
        ("daily", "2026-03-29 01:00", "02:30", 1, BERLIN, "2026-03-30 00:30"),
        ("daily", "2026-03-07 12:00", "02:30", 1, NEW_YORK, "2026-03-08 07:00"),
        ("daily", "2026-10-03 12:00", "02:15", 1, LORD_HOWE, "2026-10-03 15:30"),
        ("daily", "2026-03-28 07:00", "08:00", 1, BERLIN, "2026-03-29 06:00"),
        # it ends: 02:30 comes twice in Berlin on 2026-10-25, 01:30 in New York on 2026-11-01, 01:45 on Lord Howe
        # on 2026-04-05; the first counts, and the second is no other day
        ("daily", "2026-10-24 12:00", "02:30", 1, BERLIN, "2026-10-25 00:30"),
        ("daily", "2026-10-25 00:30", "02:30", 1, BERLIN, "2026-10-26 01:30"),
        ("daily", "2026-10-25 01:15", "02:30", 1, BERLIN, "2026-10-26 01:30"),
        ("daily", "2026-11-01 05:00", "01:30", 1, NEW_YORK, "2026-11-01 05:30"),
        ("daily", "2026-11-01 05:45", "01:30", 1, NEW_YORK, "2026-11-02 06:30"),
        ("daily", "2026-04-04 12:00", "01:45", 1, LORD_HOWE, "2026-04-04 14:45"),
        ("daily", "2026-04-04 14:50", "01:45", 1, LORD_HOWE, "2026-04-05 15:15"),
        # hourly: full hours of the clock on the wall
        ("hourly", "2026-07-01 05:59", "08:00", 1, BERLIN, "2026-07-01 06:00"),
        ("hourly", "2026-07-01 06:00", "08:00", 1, BERLIN, "2026-07-01 07:00"),
        ("hourly", "2026-07-01 06:00", "08:00", 1, "Asia/Kathmandu", "2026-07-01 06:15"),
        ("hourly", "2026-07-01 06:00", "08:00", 1, LORD_HOWE, "2026-07-01 06:30"),
        ("hourly", "2026-04-04 14:45", "08:00", 1, LORD_HOWE, "2026-04-04 15:30"),  # 02:00 is 01:30 there
        ("hourly", "2026-10-03 15:15", "08:00", 1, LORD_HOWE, "2026-10-03 16:00"),  # after 01:59 comes 02:30
    ],
)
def test_the_next_digest(every: str, now: str, at: str, day: int, zone: str | None, due: str) -> None:
    assert next_time(every, utc(now), Schedule(time.fromisoformat(at), day, zone)) == utc(due)


moments = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))
times = st.times().map(lambda at: at.replace(second=0, microsecond=0))


@given(moments, times, st.integers(1, 7), st.sampled_from(ZONES))
def test_each_day_of_the_user_has_one_digest(now: datetime, at: time, day: int, zone: str) -> None:
    """Whatever the zone does: the next lies within the next day, and after each comes one on the following day."""
    schedule, here = Schedule(at, day, zone), ZoneInfo(zone)
    days: list[date] = []
    due = now
    for _ in range(3):
        before, due = due, next_time("daily", due, schedule)
        assert before < due <= before + timedelta(hours=26)
        days.append(due.astimezone(here).date())
    assert days == [days[0] + timedelta(days=number) for number in range(3)]
    weekly = next_time("weekly", now, schedule)
    assert weekly > now
    assert weekly.astimezone(here).isoweekday() == day
    assert now < next_time("hourly", now, schedule) <= now + timedelta(hours=1, minutes=30)


NOON = utc("2026-07-01 12:00")
EIGHT = utc("2026-07-02 08:00")


def digest(due: datetime, until: datetime | None = None) -> Waits:
    return Waits("digest", until or due, due)


def after(**delta: int) -> datetime:
    return NOON + timedelta(**delta)


@pytest.mark.parametrize(
    ("rule", "coming", "expected"),
    [
        ("now", None, None),
        ("if offline", None, None),
        ("if unread after 15m", None, Waits("unread", after(minutes=15))),
        ("if unread after 15m", digest(after(minutes=5)), Waits("unread", after(minutes=15))),
        # a window begins with the first …
        ("digest 1h", None, digest(after(hours=1))),
        # … and the next ones join it
        ("digest 1h", digest(after(minutes=20)), digest(after(minutes=20))),
        # another rule's digest that is sooner takes it along, a later one does not
        ("digest 20h", digest(EIGHT), digest(EIGHT)),
        ("digest 1h", digest(EIGHT), digest(after(hours=1))),
        # a day's digest keeps its hour
        ("digest daily", None, digest(EIGHT)),
        ("digest daily", digest(after(minutes=20)), digest(EIGHT)),
        ("digest daily", digest(EIGHT), digest(EIGHT)),
        # what is due already, and is held by quiet hours, takes everything
        ("digest 1h", digest(after(hours=-1), EIGHT), digest(after(hours=-1), EIGHT)),
        ("digest daily", digest(after(hours=-1), EIGHT), digest(after(hours=-1), EIGHT)),
        ("digest daily", digest(NOON), digest(NOON)),
    ],
)
def test_what_a_delivery_waits_for(rule: str, coming: Waits | None, expected: Waits | None) -> None:
    assert waits(rule, NOON, Schedule(), coming) == expected
