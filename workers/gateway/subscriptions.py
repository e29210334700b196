"""The process's one Redis pub/sub connection: which channels it listens to, kept through every outage.

A publication may be lost while it is away; whoever listens is told when it is back (`connected`) and looks in
Postgres. A connection can also be deaf: open, and nothing arrives. So the process publishes to a channel of its
own and expects to hear it before the next time.

One task reads and one writes. Everybody else only says what is wanted; what is wanted at the same moment is
asked for in one command.
"""

import asyncio
import math
import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import islice

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from workers import log

CONFIRMATION = 2.0
"""Seconds to wait for Redis to confirm a subscription. Later, `connected` makes good for it."""
_AT_ONCE = 500
_TURN = 64
"""Users heard of in a row, and of each once. Many publications may come in one read, and those who write them
need their turn in between."""
_LONGEST_WAIT = 2.0


class Subscriptions:
    """heard      called with channel and data of each publication
    connected  called when a new connection listens to every channel wanted so far"""

    def __init__(
        self, redis_url: str, heard: Callable[[bytes, bytes], None], connected: Callable[[], None]
    ) -> None:
        # A retry that knows no error: redis-py would reconnect by itself, and hide the outage.
        never = Retry(NoBackoff(), 0, supported_errors=())
        self._redis = Redis.from_url(
            redis_url, socket_timeout=5, socket_connect_timeout=2, retry=never, protocol=2
        )
        self._heard, self._connected = heard, connected
        self._wanted: dict[bytes, asyncio.Event] = {}
        self._unsaid: dict[bytes, None] = {}
        self._something_to_say = asyncio.Event()
        self._own = b"tocsin:gateway:" + secrets.token_hex(8).encode()
        self._open: AbstractConnection | None = None
        self._patience: asyncio.Timeout | None = None
        self._probed = False

    async def add(self, channel: bytes) -> None:
        """Listens to `channel`; returns when Redis confirmed it, or when waiting for that is no use."""
        confirmed = self._wanted.get(channel)
        if confirmed is None:
            confirmed = self._wanted[channel] = asyncio.Event()
            self._say(channel)
        if self._patience is None:
            return
        try:
            async with asyncio.timeout(CONFIRMATION):
                await confirmed.wait()
        except TimeoutError:
            log.logger().warning("subscription_not_confirmed", seconds=CONFIRMATION)

    def remove(self, channel: bytes) -> None:
        if self._wanted.pop(channel, None):
            self._say(channel)

    def _say(self, channel: bytes) -> None:
        self._unsaid[channel] = None
        self._something_to_say.set()

    async def run(self) -> None:
        """Listens, for ever; reconnects after 50 ms and ever longer, up to 2 s."""
        failures = 0
        while True:
            try:
                async with self._opened() as connection, asyncio.timeout(None) as patience:
                    self._patience = patience
                    failures = 0
                    await self._converse(connection)
            except Exception as error:  # a closed connection makes redis-py raise also what is no RedisError
                failures += 1
                if failures == 1:
                    log.logger().warning("redis_away", error=type(error).__name__)
            finally:
                self._patience = None
                self._probed = False
                for confirmed in self._wanted.values():
                    confirmed.clear()
            await asyncio.sleep(min(_LONGEST_WAIT, 0.05 * 2**failures) * random.uniform(0.5, 1))  # noqa: S311

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[AbstractConnection]:
        connection: AbstractConnection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            yield connection
        finally:
            await connection.disconnect(nowait=True)

    async def _converse(self, connection: AbstractConnection) -> None:
        """Until the connection fails. Its own channel comes last: once that is confirmed, all are."""
        self._open = connection
        self._unsaid = dict.fromkeys([*self._wanted, self._own])
        self._something_to_say.set()
        writing = asyncio.create_task(self._write(connection))
        writing.add_done_callback(lambda _: self._give_up())
        try:
            heard: set[bytes] = set()
            while True:
                # Past redis-py's PubSub, which takes four times as long over a publication.
                told = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
                if told[1] in heard or len(heard) == _TURN:
                    heard.clear()
                    await asyncio.sleep(0)
                heard.add(told[1])
                self._hear(told)
        finally:
            self._open = None  # beside the cancellation, which Python 3.11's `wait_for` can swallow
            writing.cancel()
            self._something_to_say.set()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, connection: AbstractConnection) -> None:
        while self._open is connection:
            await self._something_to_say.wait()
            self._something_to_say.clear()
            unsaid, self._unsaid = self._unsaid, {}
            for command, wanted in ((b"UNSUBSCRIBE", False), (b"SUBSCRIBE", True)):
                channels = iter([channel for channel in unsaid if self._wants(channel) is wanted])
                while chunk := list(islice(channels, _AT_ONCE)):
                    await connection.send_command(command, *chunk)

    def _wants(self, channel: bytes) -> bool:
        return channel in self._wanted or channel == self._own

    def _hear(self, told: list[bytes]) -> None:
        kind, channel, data = told
        if channel == self._own:
            self._probed = False
            if kind == b"subscribe":
                log.logger().info("redis_listening", channels=len(self._wanted))
                self._connected()
        elif kind == b"message":
            self._heard(channel, data)
        elif kind == b"subscribe" and channel in self._wanted:
            self._wanted[channel].set()

    async def probe(self) -> None:
        """Call it now and then: gives up a connection that did not hear the last call."""
        if self._patience is None:
            return
        if self._probed:
            log.logger().warning("redis_deaf")
            self._give_up()
            return
        self._probed = True
        try:
            await self._redis.publish(self._own, b"")
        except Exception as error:  # of a closed connection redis-py raises also what is no RedisError
            self._probed = False
            log.logger().warning("redis_not_probed", error=type(error).__name__)

    def _give_up(self) -> None:
        if self._patience:
            self._patience.reschedule(0)
            self._patience = None

    async def aclose(self) -> None:
        await self._redis.aclose()
