"""Stage: say where a notification may gather with others of its kind; and the rule by which they do.

The stage names a window. The count is taken at fan_out, under the lock of the recipient's inbox, because only
there it is exact, however many producers speak at once. The lock holds `inboxes.windows`:

    {"comment/post-9": {"leading": [[id, ms], …], "group": id | null, "count": n, "at": ms}}

    leading  recent notifications with rows of their own, not yet read: at most threshold - 1
    group    the open group, once there is one, with its count; reading it closes the window
    at       when the last one came: a window ends that long after it (type.toml, grouping.window)
"""

from collections.abc import Collection
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from pipelines.stage import Resources
from schema.identity import group_id, text
from schema.notification import Notification

Windows = dict[str, dict[str, Any]]


def grouping(batch: list[Notification], use: Resources) -> list[Notification]:
    """Names each notification's window: its type and group key; none for a type that does not group."""
    grouped = use.catalog.windows
    return [
        msgspec.structs.replace(n, window=f"{n.type}/{n.window or ''}" if n.type in grouped else None)
        for n in batch
    ]


class Joined(NamedTuple):
    """A notification became a member of a group. `leading` are members that lose their own rows to it now."""

    group: UUID
    total: int
    leading: list[UUID]


def join(windows: Windows, name: str, notification: UUID, at: int, threshold: int, lasts: int) -> Joined | None:
    """Puts a notification that is told at `at` (milliseconds) into its window, in place. None: it has a row of its
    own. `threshold` is at least 2.

    `lasts` is the window's length in milliseconds; the notification that makes `threshold` within it forms the
    group, and later ones join it for as long as none comes later than that after the one before."""
    window = windows.setdefault(name, {"leading": [], "group": None, "count": 0, "at": at})
    window["at"] = max(window["at"], at)
    if window["group"]:
        window["count"] += 1
        return Joined(UUID(window["group"]), window["count"], [])
    kept = [entry for entry in window["leading"] if entry[1] > at - lasts]
    if len(kept) + 1 < threshold:
        window["leading"] = [*kept, [text(notification), at]]
        return None
    leading = [UUID(id_) for id_, _ in kept]
    formed = group_id(leading[0])
    window |= {"leading": [], "group": text(formed), "count": len(leading) + 1}
    return Joined(formed, window["count"], leading)


def end_old(windows: Windows, now: int, lasts: dict[str, int]) -> list[UUID]:
    """Removes windows that ended, in place; returns their groups, which are to be closed.

    `lasts`: type -> milliseconds; a type that groups no more ends at once."""
    over = [name for name, window in windows.items() if window["at"] <= now - lasts.get(name.split("/")[0], 0)]
    return [UUID(window["group"]) for name in over if (window := windows.pop(name))["group"]]


def forget(windows: Windows, ids: Collection[UUID]) -> Windows:
    """The windows without these rows: what was read or archived gathers no more; a group that was is closed."""
    gone = {text(id_) for id_ in ids}
    kept: Windows = {}
    for name, window in windows.items():
        leading = [entry for entry in window["leading"] if entry[0] not in gone]
        if window["group"] not in gone and (window["group"] or leading):
            kept[name] = window | {"leading": leading}
    return kept
