"""One live connection of a user, whatever carries it: what waits to be written to it, and why it ends."""

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from workers.gateway import counters

BOUND = 64
"""Events that may wait for a connection. One that has as many is closed when the next comes; it may resume."""


class Event(msgspec.Struct, frozen=True):
    """Something to tell a browser. `data` is JSON; `seq` is where the inbox stands after it, when it says so;
    `version` is the inbox's, where age matters."""

    name: str
    data: bytes
    seq: int | None = None
    version: int = 0


class Connection:
    """Events pushed before `begin` are held, so that nothing is lost while the inbox is read.

    user, expires   whose it is, and until when (seconds since 1970), both from the token
    wake            called when there is something to take, or when it ended; must not raise
    seq             the last place told; -1 until `begin`
    ended           why it is to be closed: "slow", "shutdown"; None while it goes on
    name, visible   what the browser calls it, and whether somebody can see the page
    """

    __slots__ = ("_count", "_waiting", "_wake", "ended", "expires", "name", "seq", "transport", "user", "visible")

    def __init__(
        self,
        user: str,
        expires: float,
        transport: str,
        wake: Callable[[], None],
        name: str | None = None,
        visible: bool = True,
    ) -> None:
        self.user, self.expires, self.transport = user, expires, transport
        self.name, self.visible = name, visible
        self.seq = -1
        self.ended: str | None = None
        self._wake = wake
        self._waiting: deque[Event] = deque()
        self._count: Event | None = None

    def begin(self, seq: int, version: int, reload: Event) -> None:
        """The inbox was read at `seq` and `version`: of what was held, only what is newer goes on. A "read all"
        older than that could be taken for one that came after; `reload` takes its place."""
        held = [event for event in self._waiting if event.seq is None or event.seq > seq]
        self._waiting = deque(
            reload if event.name == "read" and 0 < event.version < version else event for event in held
        )
        if self._count and self._count.version <= version:
            self._count = None
        self.seq = max([seq, *(event.seq for event in held if event.seq is not None)])

    def push(self, events: Sequence[Event]) -> None:
        """Leaves out places told before. Many at once (a gap that was filled) may pass the bound; a second time
        they may not."""
        news = [event for event in events if event.seq is None or event.seq > self.seq]
        if not news or self.ended:
            return
        if len(self._waiting) >= BOUND:
            self.end("slow")
            return
        self._waiting.extend(news)
        self.seq = max([self.seq, *(event.seq for event in news if event.seq is not None)])
        self._wake()

    def push_count(self, count: Event) -> None:
        """The unread count is a state: only the newest waits."""
        self._count = count
        self._wake()

    def reset(self, event: Event) -> None:
        """The inbox itself went back (restored, erased): forget the place told."""
        self.seq = -1
        self.push([event])

    def take(self) -> list[Event]:
        """Everything that waits, in order."""
        taken = list(self._waiting)
        self._waiting.clear()
        if self._count:
            taken.append(self._count)
            self._count = None
        return taken

    def end(self, why: str) -> None:
        if self.ended:
            return
        self.ended = why
        self._waiting.clear()
        if why == "slow":
            counters.SLOW.inc()
        self._wake()
