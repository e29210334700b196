"""How one browser's stream is written: at once while there is room, and else by the task of its connection.

Most of the time that task sleeps in `receive`, which also tells when the browser is gone. What is pushed meanwhile
is written past it, in the next turn of the loop: to wake the task costs several times what the bytes do. It is
woken when there is no room, and by what ends the stream.
"""

import asyncio
import math
import time
from collections.abc import Sequence

from starlette.types import Message, Receive, Send

from workers.gateway import counters
from workers.gateway.connection import Connection, Event

PING = 20.0
"""Seconds from one comment to the next; proxies cut what is silent for 30."""
BLOCKED = 10.0
"""Seconds a write may wait for a reader."""
_AT_ONCE = 50
"""Events in one write."""


def frame(event: Event) -> bytes:
    place = b"" if event.seq is None else b"id: %d\n" % event.seq
    return b"event: %b\n%bdata: %b\n\n" % (event.name.encode(), place, event.data)


def pieces(events: Sequence[Event]) -> list[bytes]:
    """What is to be written, in pieces that a socket takes; the events are counted."""
    for event in events:
        counters.SENT[event.name].inc()
    return [b"".join(map(frame, events[at : at + _AT_ONCE])) for at in range(0, len(events), _AT_ONCE)]


class Gone(Exception):
    """The browser left."""


class Blocked(Exception):
    """The browser did not read for too long."""


class Writer:
    """`connection` is what is written, once it is known; its `wake` is this one's."""

    __slots__ = ("_due", "_flushing", "_receive", "_send", "_sleep", "_unsent", "connection")

    connection: Connection

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._sleep: asyncio.Timeout | None = None
        self._due: asyncio.TimerHandle | None = None
        self._flushing = False
        self._unsent: list[bytes] = []

    async def write(self, message: Message) -> None:
        """Raises Blocked."""
        if self._sent_now(message):
            return
        try:
            async with asyncio.timeout(BLOCKED):
                await self._send(message)
        except TimeoutError:
            raise Blocked from None

    async def body(self, body: bytes, more: bool = True) -> None:
        await self.write(_body(body, more))

    async def gone(self) -> None:
        """Returns when the browser is gone."""
        while (await self._receive())["type"] != "http.disconnect":
            continue

    async def sleep(self) -> None:
        """Until only the task can go on: there is no room, or the connection ended, or its token expired. News,
        and a comment now and then, are written meanwhile. Raises Gone, Blocked."""
        self._set_timer()
        try:
            async with asyncio.timeout(None) as self._sleep:
                await self.gone()
                raise Gone
        except TimeoutError:
            pass
        finally:
            self._sleep = None
            if self._due:
                self._due.cancel()
        unsent, self._unsent = self._unsent, []
        for piece in unsent:
            await self.body(piece)

    def wake(self) -> None:
        """There are news, or the connection ended. Whatever else comes in this turn goes into the same write."""
        if self._sleep and not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._sleep:
            self._write_now(pieces(self.connection.take()))
        if self.connection.ended:
            self._rouse()

    def _tick(self) -> None:
        if self.connection.expires <= time.time():
            self._rouse()
        elif self._sleep:
            self._write_now([b": ping\n\n"])
            self._set_timer()

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        left = self.connection.expires - time.time()
        # On the tenth: to wake the loop costs more than to write a comment.
        at = loop.time() + left if left < PING else math.ceil((loop.time() + PING) * 10) / 10
        self._due = loop.call_at(at, self._tick)

    def _write_now(self, pieces: list[bytes]) -> None:
        """What there is no room for, the task has to write."""
        while pieces and self._sent_now(_body(pieces[0])):
            del pieces[0]
        if pieces:
            self._unsent = pieces
            self._rouse()

    def _sent_now(self, message: Message) -> bool:
        """The first step of a send. uvicorn waits for room before it writes, never after: a send that is not done
        with its first step has written nothing."""
        step = self._send(message).__await__()
        try:
            next(step)
        except StopIteration:
            return True
        step.close()
        return False

    def _rouse(self) -> None:
        if self._sleep:
            self._sleep.reschedule(0)
            self._sleep = None


def _body(body: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
