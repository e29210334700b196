"""Running a uvicorn server as a process of the fleet: reported alive, and ended in order."""

import asyncio
import signal
import socket

import redis
import uvicorn

from workers.alive import say_alive

TICK = 0.5
"""Seconds until a server notices that it should end, at most."""


class Server(uvicorn.Server):
    async def main_loop(self) -> None:
        """uvicorn's, which asks ten times a second whether it should end: most of what an idle server costs."""
        while not await self.on_tick(0):
            await asyncio.sleep(TICK)


def serve(server: uvicorn.Server, listener: socket.socket, client: redis.Redis, process: str) -> None:
    """Until SIGTERM or SIGINT, and until what is under way is done. uvicorn then raises the same signal again, for
    whoever had it before: that is us, and the process ends with 0."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    take_leave = say_alive(client, process)
    server.run(sockets=[listener])
    take_leave()
