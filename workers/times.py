"""A user's times: the zone, quiet hours, when digests come. Two doors lead here: the gateway's, where users say it
themselves (in camelCase), and the API's.

A change is one transaction: WRITE; then `without_zone`, which may refuse it; then, where the hours are others,
LOCK and SPACE from workers/quiet.py, so that what was held is looked at now. Repeating it changes nothing.
"""

import re
import zoneinfo
from collections.abc import Iterator
from datetime import time
from functools import cache
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from schema.errors import FieldError
from schema.fields import field_errors

Day = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
WEEK: tuple[Day, ...] = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_A_TIME = "must be a time of day from 00:00 to 23:59, like 22:30"

READ = """
SELECT time_zone, quiet_days, quiet_from, quiet_to, digest_at, digest_day FROM users WHERE id = %(user)s
"""
WRITE = """
WITH before AS (
    SELECT quiet_days, quiet_from, quiet_to, time_zone FROM users WHERE id = %(user)s
), kept AS (
    INSERT INTO users AS u (id, time_zone, quiet_days, quiet_from, quiet_to, digest_at, digest_day)
    VALUES (%(user)s, %(time_zone)s, %(days)s::smallint[], %(from)s::time, %(to)s::time,
        coalesce(%(digest_at)s::time, '08:00'), coalesce(%(digest_day)s::smallint, 1))
    ON CONFLICT (id) DO UPDATE SET updated_at = now(),
        time_zone = CASE WHEN %(sets_time_zone)s THEN excluded.time_zone ELSE u.time_zone END,
        quiet_days = CASE WHEN %(sets_quiet_hours)s THEN excluded.quiet_days ELSE u.quiet_days END,
        quiet_from = CASE WHEN %(sets_quiet_hours)s THEN excluded.quiet_from ELSE u.quiet_from END,
        quiet_to = CASE WHEN %(sets_quiet_hours)s THEN excluded.quiet_to ELSE u.quiet_to END,
        digest_at = CASE WHEN %(sets_digest_at)s THEN excluded.digest_at ELSE u.digest_at END,
        digest_day = CASE WHEN %(sets_digest_day)s THEN excluded.digest_day ELSE u.digest_day END
    RETURNING time_zone, quiet_days, quiet_from, quiet_to, digest_at, digest_day
), inbox AS (
    INSERT INTO inboxes (user_id) VALUES (%(user)s) ON CONFLICT DO NOTHING
)
SELECT kept.*, (kept.quiet_days, kept.quiet_from, kept.quiet_to, kept.time_zone)
    IS DISTINCT FROM (before.quiet_days, before.quiet_from, before.quiet_to, before.time_zone)
FROM kept LEFT JOIN before ON true
"""


class QuietHours(msgspec.Struct, forbid_unknown_fields=True):
    """The days on which they begin; times of day like 22:00. Past midnight when `to` is not later than `from`."""

    begin: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    days: list[Day] = msgspec.field(default_factory=lambda: list(WEEK))


class Times(msgspec.Struct, forbid_unknown_fields=True):
    """What to set; what is left out stays. null: no zone, no quiet hours; digests at 08:00, on Mondays."""

    time_zone: str | UnsetType | None = UNSET
    quiet_hours: QuietHours | UnsetType | None = UNSET
    digest_at: str | UnsetType | None = UNSET
    digest_day: Day | UnsetType | None = UNSET


class CamelTimes(Times, rename="camel", forbid_unknown_fields=True):
    """The same, as the gateway spells it. A struct renames only what it declares itself."""

    time_zone: str | UnsetType | None = UNSET
    quiet_hours: QuietHours | UnsetType | None = UNSET
    digest_at: str | UnsetType | None = UNSET
    digest_day: Day | UnsetType | None = UNSET


class Kept(NamedTuple):
    """The columns of READ and WRITE. `moved`: WRITE set other hours than there were."""

    time_zone: str | None
    quiet_days: list[int] | None
    quiet_from: time | None
    quiet_to: time | None
    digest_at: time
    digest_day: int
    moved: bool = False


NOBODY = Kept(None, None, None, None, time(8), 1)
"""Of whom nothing is known."""


def read(document: object, kind: type[Times] = Times) -> tuple[Times, list[FieldError]]:
    """What is to be set, and every field of the document that is wrong; with errors, nothing may be set."""
    errors = field_errors(document, kind)
    if errors and isinstance(document, dict):  # what the other fields say may be wrong as well
        faulty = {error.field.partition(".")[0].partition("[")[0] for error in errors}
        document = {name: value for name, value in document.items() if name not in faulty}
    elif errors:
        return kind(), errors
    times = msgspec.convert(document, kind)
    return times, errors + list(_wrong(times, names(kind)))


def names(kind: type[Times]) -> dict[str, str]:
    """How its fields are spelt."""
    return {field.name: field.encode_name for field in msgspec.structs.fields(kind)}


def _wrong(times: Times, name: dict[str, str]) -> Iterator[FieldError]:
    if isinstance(times.time_zone, str) and times.time_zone not in _zones():
        yield FieldError(name["time_zone"], "must be an IANA name, like Europe/Vienna")
    if isinstance(times.digest_at, str) and not _TIME.fullmatch(times.digest_at):
        yield FieldError(name["digest_at"], _A_TIME)
    quiet = times.quiet_hours
    if not isinstance(quiet, QuietHours):
        return
    place = name["quiet_hours"]
    for end, at in (("from", quiet.begin), ("to", quiet.end)):
        if not _TIME.fullmatch(at):
            yield FieldError(f"{place}.{end}", _A_TIME)
    if not quiet.days:
        yield FieldError(f"{place}.days", f"must name a day; for no quiet hours set {place} to null")
    if quiet.begin == quiet.end and len(set(quiet.days)) == len(WEEK):
        yield FieldError(place, "must leave some time; to get no email and push at all, switch them off")


def values(user: str, times: Times) -> dict[str, object]:
    """Of WRITE."""
    quiet = times.quiet_hours if isinstance(times.quiet_hours, QuietHours) else None
    row: dict[str, object] = {
        "user": user,
        "time_zone": times.time_zone or None,
        "days": sorted({WEEK.index(day) + 1 for day in quiet.days}) if quiet else None,
        "from": quiet and quiet.begin,
        "to": quiet and quiet.end,
        "digest_at": times.digest_at or None,
        "digest_day": WEEK.index(times.digest_day) + 1 if times.digest_day else None,
    }
    return row | {f"sets_{name}": getattr(times, name) is not UNSET for name in times.__struct_fields__}


def without_zone(kept: Kept, kind: type[Times] = Times) -> list[FieldError]:
    """What is wrong with times that are about to be committed: nobody knows when they are."""
    if kept.quiet_from is None or kept.time_zone is not None:
        return []
    return [FieldError(names(kind)["time_zone"], "is needed for quiet hours: say in which zone they are")]


def shown(kept: Kept, kind: type[Times] = Times) -> Times:
    """As `read` takes it."""
    quiet = None
    if kept.quiet_from is not None and kept.quiet_to is not None:
        days = [WEEK[day - 1] for day in kept.quiet_days or ()]
        quiet = QuietHours(f"{kept.quiet_from:%H:%M}", f"{kept.quiet_to:%H:%M}", days)
    return kind(
        time_zone=kept.time_zone,
        quiet_hours=quiet,
        digest_at=f"{kept.digest_at:%H:%M}",
        digest_day=WEEK[kept.digest_day - 1],
    )


@cache
def _zones() -> frozenset[str]:
    """Reads many files: once."""
    return frozenset(zoneinfo.available_timezones())
