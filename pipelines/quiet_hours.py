"""Quiet hours: when a person wants no email, no push, and nothing on the screen that moves or sounds.

They begin on certain days at a time of day and end at the next time of day that is `end`, on the same day or past
midnight; the day is the one on which they begin. `begin` = `end` are 24 hours. Days and times are those of the
person's zone, by what a clock on the wall shows when summer time begins or ends:

    a time that the clock skips        is the moment at which it jumps: quiet to 02:30, and the clock goes from
                                       02:00 to 03:00, ends at 03:00
    a time that the clock shows twice  quiet begins at the first and ends at the second: quiet to 02:30, and the
                                       clock goes from 03:00 back to 02:00, is not interrupted in between

So a night may be quiet an hour more or less, and is never cut in two.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

_LONGEST = 8
"""Days after which even a week without a break is said to end: whoever waits asks again then."""


class QuietHours(NamedTuple):
    """`days`: 1 is Monday, 7 Sunday (ISO 8601). `zone`: an IANA name."""

    days: frozenset[int]
    begin: time
    end: time
    zone: str


def quiet_hours(
    days: Iterable[int] | None, begin: time | None, end: time | None, zone: str | None
) -> QuietHours | None:
    """From the columns of `users`; None for who has none."""
    if begin is None or end is None:
        return None
    return QuietHours(frozenset(days or ()), begin, end, zone or "UTC")


def until(quiet: QuietHours | None, now: datetime) -> datetime | None:
    """When the quiet that holds at `now` ends, in UTC; None when it is not quiet. Hours that follow each other
    without a break are one. `now` has a zone, any."""
    if quiet is None:
        return None
    zone, here = zone_of(quiet.zone), now.astimezone(UTC)
    today = here.astimezone(zone).date()
    found: datetime | None = None
    for ahead in range(-2, _LONGEST):
        day = today + timedelta(days=ahead)
        if day.isoweekday() not in quiet.days:
            continue
        begins = instant(day, quiet.begin, zone)
        last = day if quiet.end > quiet.begin else day + timedelta(days=1)
        ends = instant(last, quiet.end, zone, last=True)
        if begins > (found or here):
            break
        if ends > (found or here):
            found = ends
    return found


def whole_week(quiet: QuietHours) -> bool:
    """Whether it is never anything but quiet."""
    return len(quiet.days) == 7 and quiet.begin == quiet.end


def instant(day: date, at: time, zone: tzinfo, last: bool = False) -> datetime:
    """The moment, in UTC, at which a clock in `zone` shows a time of a day. One that is shown twice: the first, or
    the `last`; one that is skipped: the moment at which the clock jumps, which lies between what PEP 495 makes of
    it with `fold=1` and with `fold=0`."""
    shown = datetime.combine(day, at, tzinfo=zone)
    first, second = shown.astimezone(UTC), shown.replace(fold=1).astimezone(UTC)
    if first <= second:
        return second if last else first
    before, after = second, first
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // timedelta(seconds=2) * timedelta(seconds=1)
        if middle.astimezone(zone).replace(tzinfo=None) < shown.replace(tzinfo=None):
            before = middle
        else:
            after = middle
    return after


@lru_cache(1000)
def zone_of(name: str | None) -> tzinfo:
    """The zone; UTC for none, and for one that this machine's data does not know: it was checked when it was
    set."""
    try:
        return ZoneInfo(name or "UTC")
    except (LookupError, ValueError, OSError):
        return UTC
