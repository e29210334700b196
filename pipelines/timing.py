"""Timing: when a channel is told, where that is not at once. The rule is a type's (type.toml) or a user's choice:

"now"                    at once
"if unread after 15m"    then, unless it was read meanwhile, anywhere
"if offline"             at once, unless the user is looking at the inbox at this moment
"digest 1h"              together with whatever else comes within an hour of the first
"digest hourly", "digest daily", "digest weekly"   … until the next full hour, or the user's hour of
                         the day or the week

Hours and days are those of the user's zone, as pipelines/quiet_hours.py has it: a time that the clock skips is the
moment at which it jumps, one that it shows twice is the first of the two. So a digest is sent once a day, also on
the two days of the year that have 23 or 25 hours.
"""

import re
from datetime import UTC, datetime, time, timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast

import msgspec

from pipelines import durations
from pipelines.quiet_hours import instant, zone_of

_RULE = re.compile(
    f"now|if offline|if unread after ({durations.PATTERN})|digest (?:(hourly|daily|weekly)|({durations.PATTERN}))"
)


_FIXED = ("now", "if offline", "digest hourly", "digest daily", "digest weekly")
_RULES = (
    'true, false, "now", "if offline", "if unread after 15m", '
    '"digest 1h", "digest hourly", "digest daily", "digest weekly"'
)


class Timing(msgspec.Struct, frozen=True):
    """`rule`: which of the above. `after`: how long an unread one waits, or a digest gathers; `every`: at which
    local times a digest goes out instead."""

    rule: Literal["now", "unread", "offline", "digest"]
    after: timedelta = timedelta()
    every: Literal["", "hourly", "daily", "weekly"] = ""

    def __str__(self) -> str:
        """The text that `parse` makes this of."""
        match self.rule:
            case "unread":
                return f"if unread after {durations.written(self.after)}"
            case "digest":
                return f"digest {self.every or durations.written(self.after)}"
            case "offline":
                return "if offline"
        return "now"


NOW = Timing("now")
_QUARTER = 15 * 60
"""Seconds. No zone's offset is anything but quarters of an hour since 1972."""


class Schedule(NamedTuple):
    """When a user wants digests: the time of day, the day of weekly ones (1 is Monday, 7 Sunday), the zone's IANA
    name."""

    at: time = time(8)
    day: int = 1
    zone: str | None = None


ALIKE = Schedule()
"""For whom nothing is known of."""


class Waits(NamedTuple):
    """What a delivery waits for: `reason` as in schema/delivery.py; `until` when its time comes; `digest_due` when
    the digest is due that it is to go out with."""

    reason: str
    until: datetime
    digest_due: datetime | None = None


def waits(rule: str, now: datetime, schedule: Schedule, coming: Waits | None) -> Waits | None:
    """What a delivery under this rule waits for; None: nothing. `coming` is the digest that is due next of those
    which wait to go out to the same address.

    One that is due already, and is held by something else, takes whatever comes. A digest that gathers for a while
    goes out with the next one, if that is due within this while. So of several rules that lead to the same moment
    comes one digest. Raises ValueError for what is no rule."""
    timing = parse(rule)
    if timing.rule == "unread":
        return Waits("unread", now + timing.after)
    if timing.rule != "digest":
        return None
    due = next_time(timing.every, now, schedule) if timing.every else now + timing.after
    if coming and coming.digest_due and coming.digest_due <= (now if timing.every else due):
        return coming
    return Waits("digest", due, due)


def next_time(every: str, now: datetime, schedule: Schedule) -> datetime:
    """The first moment after `now`, in UTC, of an hourly, daily or weekly digest."""
    here, zone = now.astimezone(UTC), zone_of(schedule.zone)
    if every == "hourly":
        before = int(here.timestamp()) // _QUARTER * _QUARTER
        quarters = [datetime.fromtimestamp(before + step * _QUARTER, UTC) for step in range(1, 9)]
        return next((moment for moment in quarters if not moment.astimezone(zone).minute), quarters[3])
    day = here.astimezone(zone).date()
    while True:
        due = instant(day, schedule.at, zone)
        if due > here and (every == "daily" or day.isoweekday() % 7 == schedule.day % 7):
            return due
        day += timedelta(days=1)


@lru_cache(100)
def parse(text: str) -> Timing:
    """Raises ValueError saying what was given, and what a rule looks like."""
    found = _RULE.fullmatch(text)
    if not found:
        raise ValueError(f"{text[:50]!r}{_hint(text)} is none of: {_RULES}")
    unread, every, gathers = found.groups()
    if unread:
        return Timing("unread", durations.read(unread))
    if every:
        return Timing("digest", every=cast(Any, every))
    if gathers:
        return Timing("digest", durations.read(gathers))
    return Timing("offline") if text == "if offline" else NOW


def _hint(text: str) -> str:
    """What was probably meant; "" if nobody can tell."""
    plain = " ".join(text[:50].lower().split())
    if re.match("digest (hourly|daily|weekly) ", plain):
        return " (the time of day is a setting of the user's: digest_at)"
    near = [plain] if _RULE.fullmatch(plain) else get_close_matches(plain, _FIXED, 1, 0.8)
    if near:
        return f" (did you mean {near[0]!r}?)"
    if re.match("(if unread after|digest) [0-9]", plain):
        return " (how long: a whole number above 0, of up to five digits, and s, m, h or d)"
    return ""
