"""Between engine.io and a WebSocket: a write that waits too long fails, and the socket can be ended."""

import asyncio

from starlette.types import Message, Receive, Send

from workers.gateway.writer import BLOCKED


class Guard:
    """The receive and send of one WebSocket. Socket.IO's binary events are not used here: one ends the socket."""

    __slots__ = ("_dead", "_receive", "_send", "_waiting")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._dead = False
        self._waiting: asyncio.Timeout | None = None

    async def receive(self) -> Message:
        if not self._dead:
            try:
                async with asyncio.timeout(None) as self._waiting:
                    message = await self._receive()
                if message.get("bytes") is None:
                    return message
            except TimeoutError:
                pass
            finally:
                self._waiting = None
        return {"type": "websocket.disconnect", "code": 1008}

    async def send(self, message: Message) -> None:
        """Raises OSError when nobody reads."""
        if self._dead:
            raise OSError("nobody reads")
        try:
            async with asyncio.timeout(BLOCKED):
                await self._send(message)
        except TimeoutError:
            self._dead = True
            self.end()
            raise OSError("nobody reads") from None

    def end(self) -> None:
        """As if the browser had gone: engine.io then cleans up and closes."""
        if self._waiting:
            self._waiting.reschedule(0)
            self._waiting = None
