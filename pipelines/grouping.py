"""Stage: say where a notification may gather with others of its kind.

The stage names a window; pipelines/windows.py is the rule by which notifications gather in it. The count is taken
at fan_out, under the lock of the recipient's inbox, because only there it is exact, however many producers speak
at once; there too a window gets the rest of its name, where the type makes its key of the event's data.
"""

import msgspec

from pipelines.limits import OVER
from pipelines.stage import Resources
from schema.notification import Notification


def grouping(batch: list[Notification], use: Resources) -> list[Notification]:
    """Names each notification's window: its type and group key; none for a type that does not group."""
    grouped = use.catalog.windows
    return [
        msgspec.structs.replace(n, window=f"{n.type}/{n.window or ''}")
        if n.type in grouped
        else msgspec.structs.replace(n.close(dict.fromkeys(n.open, OVER)) if n.folded else n, window=None)
        for n in batch
    ]
