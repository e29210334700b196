"""The bodies of calls, from their first byte until the call is answered: how much of them may be in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Request
from litestar.datastructures import State

from workers.api.documents import Refused, busy

MOST = 32 * 1024 * 1024
"""Bytes of all calls together; four calls of the largest size, or some 100,000 usual events."""
SECONDS = 30.0
"""How long a body may take to arrive: a caller that died half-way must not hold its part for ever."""
RETRY_AFTER = 1


class Bodies:
    """Counts what is in hand. Before a body is read it lies in a socket's buffers, at most 64 KiB a connection."""

    def __init__(self) -> None:
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request[Any, Any, State]) -> AsyncIterator[bytes]:
        """The whole body, which counts until the block ends. Raises Refused: 503 when there is no room, 408 when
        it does not arrive; and, like `request.body()`, what Litestar raises for a body over its limit."""
        pieces: list[bytes] = []
        held = 0
        try:
            try:
                async with asyncio.timeout(SECONDS):
                    async for piece in request.stream():
                        held += len(piece)
                        self._held += len(piece)
                        if self._held > MOST:
                            raise busy("more is being sent than this process may hold", RETRY_AFTER)
                        pieces.append(piece)
            except TimeoutError:
                why = f"the body did not arrive within {SECONDS:.0f} s; nothing was stored"
                raise Refused(408, why) from None
            yield b"".join(pieces)
        finally:
            self._held -= held
