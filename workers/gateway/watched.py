"""What the gateway knows of one user with connections here, and what it tells them of each change. No I/O.

seq       last place handed on; None until the first connection has read the inbox
version   newest change heard of, and `unread`, the count after it
wanted    highest place heard of; above seq, rows are missing, and somebody has to fetch them

publication of seq    <= known    repeated, dropped
                      known + 1   handed on; fetched instead when its version is older than one heard of,
                                  for then the row may have changed since
                      beyond      the rows in between are fetched and handed on in order
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from schema.wire import InboxItem, Publication
from workers.gateway import counters
from workers.gateway.connection import Connection, Event
from workers.gateway.inbox import State


def notification(item: InboxItem) -> Event:
    return Event("notification", msgspec.json.encode(item), item.seq)


def unread_count(count: int, version: int) -> Event:
    return Event("unread-count", b'{"count":%d}' % count, version=version)


def gap(reason: str, seq: int | None = None) -> Event:
    """Something is not told one by one: the browser has to read its list again."""
    return Event("gap", msgspec.json.encode({"reason": reason}), seq)


@dataclass(slots=True, eq=False)
class Watched:
    user: str
    connections: set[Connection] = field(default_factory=set)
    seq: int | None = None
    version: int = 0
    unread: int = 0
    wanted: int = 0
    fetching: bool = False
    idle: int = 0

    @property
    def misses_rows(self) -> bool:
        return self.seq is not None and self.wanted > self.seq

    def is_behind(self, state: State) -> bool:
        return self.seq is not None and (state.seq > self.seq or state.version > self.version)

    def read(self, state: State) -> State:
        """A connection has read the inbox. The first one's word counts; a later one that saw more makes known that
        rows are missing. Returns the state with the newest count."""
        version, unread = max((state.version, state.unread), (self.version, self.unread))
        if self.seq is None:
            self.seq, self.version, self.unread = state.seq, version, unread
        self.wanted = max(self.wanted, state.seq)
        return State(state.seq, version, unread)

    def forget(self) -> None:
        """The last connection is gone, and with it who was told."""
        self.seq, self.version, self.unread, self.wanted = None, 0, 0, 0

    @property
    def present(self) -> bool:
        """Whether somebody looks."""
        return any(connection.visible for connection in self.connections)

    def hear(self, publication: Publication) -> None:
        if publication.kind == "presence":
            for connection in self.connections:
                if connection.name == publication.connection:
                    connection.visible = publication.visible
        elif publication.kind != "notification":
            self._changed(publication)
        elif publication.item:
            self._arrived(publication.item, publication.version)
        if publication.version > self.version:
            self.count(publication.version, publication.unread)

    def _arrived(self, item: InboxItem, version: int) -> None:
        if self.seq is not None and item.seq == self.seq + 1 and version >= self.version:
            self._hand_on([item])
        else:
            self.wanted = max(self.wanted, item.seq)

    def _changed(self, publication: Publication) -> None:
        if publication.ids is not None:
            self.tell(Event(publication.kind, msgspec.json.encode({"ids": publication.ids})))
        elif publication.version >= self.version:
            self.tell(Event("read", b'{"all":true}', version=publication.version))
        else:  # something newer was told already, which this would mark as read
            self.tell(gap("changed"))

    def count(self, version: int, unread: int) -> None:
        self.version, self.unread = version, unread
        for connection in list(self.connections):
            connection.push_count(unread_count(unread, version))

    def tell(self, *events: Event) -> None:
        for connection in list(self.connections):
            connection.push(events)

    def _hand_on(self, items: Iterable[InboxItem]) -> list[InboxItem]:
        """Tells those not told yet, in their order, and returns them."""
        fresh = [item for item in items if item.seq > (self.seq or 0)]
        if fresh:
            self.seq = fresh[-1].seq
            self.tell(*(notification(item) for item in fresh if item.archived_at is None))
        return fresh

    def hand_on_until(self, items: list[InboxItem], upto: int, window: int) -> list[InboxItem]:
        """All rows up to a place, which is where the user stands then, whether or not a row is still there.
        Returns those that were new; more than `window` are a gap."""
        if self.seq is None:
            return []
        fresh = self._hand_on(items) if len(items) <= window else []
        self.seq = max(self.seq, upto)
        if len(items) > window:
            self.tell(gap("too many", self.seq))
        return fresh

    def make_good(self, state: State, items: list[InboxItem], window: int) -> None:
        """The inbox is at `state`, and nobody told us: `items` came in between. What they do not explain is a
        change of rows that were told before."""
        if not self.is_behind(state):
            return
        fresh = self.hand_on_until(items, state.seq, window)
        counters.RECOVERED.inc(len(fresh))
        if state.version > self.version:
            explained = fresh and self.unread + sum(not item.read for item in fresh) == state.unread
            self.count(state.version, state.unread)
            if not explained:
                self.tell(gap("changed"))

    def start_over(self, state: State) -> None:
        """The inbox went back (restored, erased): its places mean something else now."""
        self.seq, self.wanted = state.seq, 0
        for connection in list(self.connections):
            connection.reset(gap("reset", state.seq))
        self.count(state.version, state.unread)
