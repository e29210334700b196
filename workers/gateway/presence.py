"""Presence: who is connected and looking, as the workers find it in Redis ("if offline", pipelines/timing.py).

A user is present while a connection of hers is visible: the page is on screen, as far as it says so; what says
nothing is visible. A key per user lives for EXPIRES seconds and is written anew every REFRESH, by every process
that has such a connection; what changed meanwhile, every TICK. So Redis is wrong

    after a page came, went or was hidden  for TICK; for REFRESH, when she looks through another process as well
    after a browser vanished               for TICK more than it takes to notice, 40 s at most: DEAD_AFTER and PING
                                           (server.py, writer.py), or ping_interval and ping_timeout (sockets.py)
    after this process was killed          until the keys expire: EXPIRES
    after Redis was emptied                for REFRESH

A page that is hidden, or shown again, says `POST /api/presence` {"connection": "…", "visible": false};
`connection` is what it called its stream (`?connection=`). Whichever gateway is asked publishes it to the user's
channel, where the one that has the connection hears it.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Collection
from itertools import islice
from typing import Annotated

import msgspec
from msgspec import Meta
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from starlette.requests import Request
from starlette.responses import Response

from schema.wire import Publication, presence_key, user_channel
from workers import log
from workers.gateway.auth import Auth
from workers.gateway.body import read_body
from workers.gateway.refusal import answer
from workers.gateway.tasks import Tasks

TICK = 2.0
REFRESH = 15.0
EXPIRES = 40
_AT_ONCE = 1000

_SAY = "for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1], 'EX', ARGV[2]) end"
_TAKE_BACK = """
for _, key in ipairs(KEYS) do if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end end
"""
"""What another process said since is true."""


class Look(msgspec.Struct):
    connection: Annotated[str, Meta(min_length=1, max_length=64)]
    visible: bool


class Presence:
    """`present` are the users who look through this process, at the moment it is called."""

    def __init__(self, redis: Redis, auth: Auth, present: Callable[[], set[str]]) -> None:
        self._redis, self._auth, self._present = redis, auth, present
        self._own = secrets.token_hex(8)
        self._said: set[str] = set()
        self._refreshed = -REFRESH
        self._tasks = Tasks()

    async def start(self) -> None:
        self._tasks.spawn(self._run())

    async def stop(self) -> None:
        """Nobody looks through this process any more."""
        await self._tasks.stop()
        await self._tell(set(), self._said)

    async def post(self, request: Request) -> Response:
        user = self._auth.changer(request).user
        look = await read_body(request, Look)
        change = Publication("presence", 0, 0, connection=look.connection, visible=look.visible)
        await self._redis.publish(user_channel(user), msgspec.json.encode(change))
        return answer({"visible": look.visible})

    async def _run(self) -> None:
        while True:
            await self._round()
            await asyncio.sleep(TICK)

    async def _round(self) -> None:
        present = self._present()
        all_again = time.monotonic() - self._refreshed >= REFRESH
        if await self._tell(present if all_again else present - self._said, self._said - present):
            self._said = present
            if all_again:
                self._refreshed = time.monotonic() - random.uniform(0, TICK)  # noqa: S311

    async def _tell(self, here: Collection[str], gone: Collection[str]) -> bool:
        """One pipeline, if there is something to tell. False: Redis is away, and the next round tells it."""
        if not here and not gone:
            return True
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                _each(pipe, _SAY, here, self._own, EXPIRES)
                _each(pipe, _TAKE_BACK, gone, self._own)
                await pipe.execute()
        except Exception as error:  # of a closed connection redis-py raises also what is no RedisError
            log.logger().warning("presence_not_told", error=type(error).__name__)
            return False
        return True


def _each(pipe: Pipeline, script: str, users: Collection[str], *args: str | int) -> None:
    left = iter(users)
    while chunk := [presence_key(user) for user in islice(left, _AT_ONCE)]:
        pipe.eval(script, len(chunk), *chunk, *map(str, args))
