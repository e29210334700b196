"""The other end of the fleet's sockets, as little as can be: a client that thinks takes the CPU it measures."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from redis.asyncio import Redis

from tests.benchmarks.bench import API_KEY, PROBE, Bench, Failed, token
from tests.benchmarks.producer import STREAM

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_PROBE_SEEN = re.compile(rb'"n":(\d+)')


class Http:
    """One kept-alive connection to the API."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post_events(self, body: bytes) -> None:
        """Raises Failed unless it is accepted."""
        head = (
            f"POST /v1/events HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {API_KEY}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(answer)
        content = await self._reader.readexactly(int(length[1]) if length else 0)
        if not answer.startswith(b"HTTP/1.1 202"):
            raise Failed(f"the API answered {answer[:12]!r}: {content[:200]!r}")

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def post_all(port: int, bodies: Sequence[bytes], connections: int) -> None:
    """All of them, each over the next connection that is free."""
    waiting = iter(bodies)

    async def work() -> None:
        http = await Http.open(port)
        for body in waiting:
            await http.post_events(body)
        await http.close()

    await asyncio.gather(*(work() for _ in range(connections)))


def stream_request(user: str) -> bytes:
    """What opens a user's event stream."""
    return (
        "GET /api/notifications/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"accept: text/event-stream\r\nauthorization: Bearer {token(user)}\r\n\r\n"
    ).encode()


class Probes:
    """Users who watch, and when each probe left and its bytes came, by the loop's clock."""

    def __init__(self, users: Sequence[str], http: Http, redis: Redis) -> None:
        self._users, self._http, self._redis = users, http, redis
        self.sent: dict[int, float] = {}
        self.heard: dict[int, float] = {}

    async def post(self, n: int) -> None:
        raw = self._event(n)
        self.sent[n] = asyncio.get_running_loop().time()
        await self._http.post_events(raw)

    async def xadd(self, n: int) -> None:
        raw = self._event(n)
        self.sent[n] = asyncio.get_running_loop().time()
        await self._redis.xadd(STREAM, {"event": raw})

    def _event(self, n: int) -> bytes:
        user = self._users[n % len(self._users)]
        return json.dumps({"id": f"probe-{n}", "type": PROBE, "recipients": [user], "data": {"n": n}}).encode()

    async def all_heard(self, seconds: float) -> None:
        """Raises Failed when one is missing after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while len(self.heard) < len(self.sent):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise Failed(f"{len(self.sent) - len(self.heard)} probes did not arrive in {seconds} s") from None

    def latencies(self, of: Sequence[int]) -> list[float]:
        """Seconds from sending to hearing."""
        return [self.heard[n] - self.sent[n] for n in of]

    async def listen(self, reader: asyncio.StreamReader) -> None:
        loop = asyncio.get_running_loop()
        while frame := await reader.readuntil(b"\n\n"):
            now = loop.time()
            if b"event: notification" in frame and (found := _PROBE_SEEN.search(frame)):
                self.heard.setdefault(int(found[1]), now)


@asynccontextmanager
async def probes(bench: Bench, users: Sequence[str]) -> AsyncIterator[Probes]:
    """One event stream for each of the users, all open; one connection to the API and one to Redis."""
    http = await Http.open(bench.api_port)
    redis = Redis.from_url(bench.redis_url())
    found = Probes(users, http, redis)
    writers, listening = [], []
    try:
        for user in users:
            reader, writer = await asyncio.open_connection("127.0.0.1", bench.gateway_port)
            writers.append(writer)
            writer.write(stream_request(user))
            status = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in status.partition(b"\r\n")[0]:
                raise Failed(f"the gateway answered {status[:40]!r}")
            await reader.readuntil(b"event: unread-count")
            listening.append(asyncio.create_task(found.listen(reader)))
        yield found
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
        for writer in writers:
            writer.close()
        await http.close()
        await redis.aclose()
