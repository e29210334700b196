"""Thousands of browsers in one process: each has an event stream open and waits.

    python -m tests.benchmarks.listeners PORT PREFIX COUNT PEOPLE

Browser n is the user PREFIX-(n mod PEOPLE). Says `open SECONDS` when all of them are; then, each time when every
browser was told one more notification, the moment (time.monotonic). What it needs to open them is made before the
time runs.
"""

import asyncio
import resource
import sys
import time

from uvicorn.loops.auto import auto_loop_factory

from tests.benchmarks.client import stream_request

AT_ONCE = 100
"""Connections that are being opened at a time."""


class Browser(asyncio.Protocol):
    def __init__(self, request: bytes, told: "Told") -> None:
        self._request, self._told = request, told
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]
        self._request = b""

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            if b"event: unread-count" in data:
                self.opened.set_result(None)
            elif not data.startswith((b"HTTP/1.1 200", b"id:")) and b"retry:" not in data:
                self.opened.set_exception(ConnectionError(data[:100]))
        if found := data.count(b"event: notification"):
            self._told.more(found)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("closed by the gateway"))


class Told:
    """Counts notifications; speaks when every browser has one more."""

    def __init__(self, browsers: int) -> None:
        self._browsers, self._count = browsers, 0

    def more(self, found: int) -> None:
        self._count += found
        if self._count % self._browsers == 0:
            print(time.monotonic(), flush=True)  # noqa: T201


async def run(port: int, prefix: str, count: int, people: int) -> None:
    loop, told = asyncio.get_running_loop(), Told(count)
    waiting = iter([stream_request(f"{prefix}-{n % people}") for n in range(count)])

    async def open_some() -> None:
        for request in waiting:
            _, made = await loop.create_connection(
                lambda request=request: Browser(request, told), "127.0.0.1", port
            )
            await made.opened

    began = time.monotonic()
    await asyncio.gather(*(open_some() for _ in range(AT_ONCE)))
    print("open", time.monotonic() - began, flush=True)  # noqa: T201
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:  # uvloop, where it is installed
        runner.run(run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
