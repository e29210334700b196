"""Windows: the rule by which notifications gather into one row, and what an inbox keeps of it. No I/O.

`inboxes.windows`, which only changes under the lock of its inbox:

    {"comment/post-9": {"leading": [[id, ms, who, name], …], "group": id | null, "count": n, "at": ms, …}}

    leading  recent notifications with rows of their own, not yet read: at most threshold - 1
    group    the open group, once there is one, with its count; reading it closes the window
    at       when the last one came: a window ends that long after it (type.toml, grouping.window)

and, once there is a group:

    since    when its first member came: it ends grouping.longest after that, however busy it is
    told     channel -> when it was last interrupted for this group (grouping.interrupt)
    people   how many did it; `who`: those of the last, [who, name], newest first
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from pipelines.kinds import Grouping
from schema.identity import group_id, text

Window = dict[str, Any]
Windows = dict[str, Window]
Who = tuple[str, str]
"""Who did it: by what that one is told from others, and the name to show."""

NAMED = 3
"""Names that a group's wording is given."""
REMEMBERED = 20
"""People a group tells from new ones; who comes back after so many others counts again."""
MOST = 200
"""Windows of one inbox. Of more than these, those end first that were quiet for longest."""

_MILLISECOND = timedelta(milliseconds=1)


class Rule(NamedTuple):
    """A type's `Grouping`, with lengths in milliseconds: the notification that makes `threshold` within `lasts`
    forms a group, and later ones join it for as long as none comes later than that after the one before, but no
    longer than `longest`."""

    threshold: int
    lasts: int
    longest: int | None = None
    interrupt: int | None = None

    @classmethod
    def of(cls, said: Grouping) -> "Rule":
        lengths = (said.window, said.longest, said.interrupt)
        return cls(said.threshold, *(length // _MILLISECOND if length else None for length in lengths))  # type: ignore[arg-type]


class Joined(NamedTuple):
    """A notification became a member of a group. `leading` are members that lose their own rows to it now;
    `actors` the names of the last of its `people`, newest first."""

    group: UUID
    total: int
    leading: list[UUID]
    people: int
    actors: tuple[str, ...] = ()


def join(
    windows: Windows,
    name: str,
    notification: UUID,
    at: int,
    rule: Rule,
    who: Who | None = None,
    *,
    folded: bool = False,
) -> Joined | None:
    """Puts a notification that is told at `at` (milliseconds) into its window, in place. None: it has a row of its
    own. `who` did it, if that is known; one that is `folded` does not wait for the threshold, but is no group by
    itself."""
    window = windows.setdefault(name, {"leading": [], "group": None, "count": 0, "at": at})
    window["at"] = max(window["at"], at)
    leading: list[UUID] = []
    if window["group"]:
        _meet(window, who)
    else:
        kept = [entry for entry in window["leading"] if entry[1] > at - rule.lasts]
        if len(kept) + 1 < (2 if folded else rule.threshold):
            window["leading"] = [*kept, [text(notification), at, *(who or ())]]
            return None
        leading = [UUID(entry[0]) for entry in kept]
        window |= {"leading": [], "group": text(group_id(leading[0])), "count": 0, "since": kept[0][1]}
        for entry in kept:
            _meet(window, tuple(entry[2:]))
        _meet(window, who)
    actors = tuple(known[1] for known in window.get("who", ())[:NAMED])
    return Joined(UUID(window["group"]), window["count"], leading, window["people"], actors)


def _meet(window: Window, who: Iterable[str] | None) -> None:
    """One member more. One of whom nothing is known is a person not met before."""
    people: int = window["people"] if "people" in window else window["count"]
    window["count"] += 1
    if not who:
        window["people"] = people + 1
        return
    identity, name = who
    known = window.get("who", [])
    others = [entry for entry in known if entry[0] != identity]
    window["people"] = people + (len(others) == len(known))
    window["who"] = [[identity, name], *others][:REMEMBERED]


def interrupt(window: Window, channels: Iterable[str], at: int, pause: int) -> list[str]:
    """Which of the channels were told of the window's group less than `pause` milliseconds before `at`. The others
    are told now, and that is kept, in place."""
    told = window.setdefault("told", {})
    rationed = [channel for channel in channels if at - told.get(channel, at - pause) < pause]
    told.update((channel, at) for channel in channels if channel not in rationed)
    return rationed


def end_old(windows: Windows, now: int, rules: Mapping[str, Rule]) -> list[UUID]:
    """Removes windows that ended, in place; returns their groups, which are to be closed. `rules`: by type; a type
    that groups no more ends at once."""
    over = [name for name, window in windows.items() if _ended(window, now, rules.get(name.partition("/")[0]))]
    if len(windows) > MOST:
        quiet = sorted((window["at"], name) for name, window in windows.items() if window["at"] < now)
        over = list({*over, *(name for _, name in quiet[: len(windows) - MOST])})
    return [UUID(window["group"]) for name in over if (window := windows.pop(name))["group"]]


def _ended(window: Window, now: int, rule: Rule | None) -> bool:
    if rule is None or window["at"] <= now - rule.lasts:
        return True
    return bool(rule.longest and window["group"] and window.get("since", now) <= now - rule.longest)


def forget(windows: Windows, ids: Collection[UUID]) -> Windows:
    """The windows without these rows: what was read or archived gathers no more; a group that was is closed."""
    gone = {text(id_) for id_ in ids}
    kept: Windows = {}
    for name, window in windows.items():
        leading = [entry for entry in window["leading"] if entry[0] not in gone]
        if window["group"] not in gone and (window["group"] or leading):
            kept[name] = window | {"leading": leading}
    return kept
