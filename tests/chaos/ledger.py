"""What was promised, and what came: every event that a door took, and every time it was on a screen."""

import time
from collections import Counter
from dataclasses import dataclass, field

SLOW = 1.0
"""Seconds from acceptance to screen that are not usual on any machine."""
RECENT = 2.0
"""Seconds of events by which it is told whether things take their usual time."""


@dataclass
class Entry:
    """One event, for one user. Times are time.monotonic(); `accepted`: a door said so; `shown`: each time."""

    id: str
    user: str
    accepted: float | None = None
    shown: list[float] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return self.accepted is not None and not self.shown

    @property
    def took(self) -> float:
        return self.shown[0] - self.accepted if self.shown and self.accepted is not None else 0.0


class Ledger:
    """`odd`: what no browser should ever be told, counted: that it missed something, a step back in the order,
    a notification that belongs to somebody else. `usual`: what takes longer, in seconds, is not usual here."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.odd: Counter[str] = Counter()
        self.usual = SLOW

    def accept(self, ids: list[str]) -> None:
        now = time.monotonic()
        for id_ in ids:
            if self.entries[id_].accepted is None:
                self.entries[id_].accepted = now

    def show(self, user: str, id_: str) -> None:
        entry = self.entries.get(id_)
        if entry is None or entry.user != user:
            self.odd["somebody else's"] += 1
        else:
            entry.shown.append(time.monotonic())

    def all(self) -> list[Entry]:
        return list(self.entries.values())

    @property
    def unanswered(self) -> list[Entry]:
        """Sent, and not accepted yet."""
        return [entry for entry in self.all() if entry.accepted is None]

    @property
    def accepted(self) -> list[Entry]:
        return [entry for entry in self.all() if entry.accepted is not None]

    @property
    def arrived(self) -> list[Entry]:
        return [entry for entry in self.accepted if entry.shown]

    @property
    def lost(self) -> list[Entry]:
        return [entry for entry in self.all() if entry.open]

    @property
    def doubled(self) -> list[Entry]:
        return [entry for entry in self.all() if len(entry.shown) > 1]

    def open_before(self, moment: float) -> list[Entry]:
        """Accepted by then, and not on a screen yet."""
        return [entry for entry in self.lost if (entry.accepted or 0) <= moment]

    def healed_after(self, moment: float) -> float:
        """Seconds from then until the last event accepted before it had arrived."""
        late = [entry.shown[0] - moment for entry in self.arrived if (entry.accepted or 0) <= moment]
        return max([0.0, *late])

    def calm_after(self, moment: float) -> float:
        """Seconds from then until the last event that took longer than usual had arrived."""
        slow = [entry.shown[0] - moment for entry in self.arrived if entry.took > self.usual]
        return max([0.0, *slow])

    def is_calm(self) -> bool:
        """Whether what was accepted of late came in the usual time."""
        recent = self._recent()
        return bool(recent) and all(entry.shown and entry.took < self.usual for entry in recent)

    def learn_what_is_usual(self) -> None:
        """A machine with other work takes its time."""
        self.usual = max([SLOW, *(2 * entry.took for entry in self._recent())])

    def _recent(self) -> list[Entry]:
        end = time.monotonic() - self.usual
        return [entry for entry in self.accepted if end - RECENT < (entry.accepted or 0) < end]
