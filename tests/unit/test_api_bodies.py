"""However many callers send however much, what lies in memory is bounded; and nobody holds a part for ever."""

import asyncio

import httpx
import pytest
from litestar import Litestar, Request, post
from litestar.datastructures import State

from workers.api import bodies
from workers.api.bodies import Bodies


class Calls:
    """Calls whose bodies arrive piece by piece, as the test says, at an API that answers when it says."""

    def __init__(self):
        self.bodies, self.answer = Bodies(), asyncio.Event()

        @post("/", request_max_body_size=100)
        async def take(request: Request[None, None, State]) -> str:
            async with self.bodies.read(request) as body:
                await self.answer.wait()
                return body.decode()

        self.app = Litestar([take], openapi_config=None, logging_config=None)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://api")

    async def send(self, *pieces, until=None):
        async def body():
            for piece in pieces:
                yield piece
            if until:
                await until.wait()

        return await self.client.post("/", content=body())

    async def held(self, size):
        async with asyncio.timeout(5):
            while self.bodies._held != size:
                await asyncio.sleep(0)


def run(test):
    async def with_calls():
        calls = Calls()
        async with calls.client:
            await test(calls)
        assert calls.bodies._held == 0

    asyncio.run(with_calls())


def test_a_body_is_whole():
    async def test(calls):
        calls.answer.set()
        answer = await calls.send(b"one ", b"", b"two")
        assert (answer.status_code, answer.text) == (201, "one two")

    run(test)


def test_what_does_not_fit_is_refused_until_others_are_answered(monkeypatch):
    monkeypatch.setattr(bodies, "MOST", 10)

    async def test(calls):
        read = asyncio.create_task(calls.send(b"1234567"))
        arriving = asyncio.create_task(calls.send(b"89", until=calls.answer))
        await calls.held(9)
        refused = await calls.send(b"ab")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "send the same again, with the same ids, after 1 s" in refused.json()["detail"]
        fits = asyncio.create_task(calls.send(b"a"))
        await calls.held(10)
        calls.answer.set()
        assert [(await call).status_code for call in (read, arriving, fits)] == [201] * 3
        assert (await calls.send(b"ab")).status_code == 201

    run(test)


def test_a_body_that_does_not_arrive_gives_its_part_back(monkeypatch):
    monkeypatch.setattr(bodies, "SECONDS", 0.05)

    async def test(calls):
        answer = await calls.send(b"1234567", until=calls.answer)
        assert answer.status_code == 408
        assert "did not arrive" in answer.json()["detail"]

    run(test)


def test_a_body_over_the_limit_gives_its_part_back():
    async def test(calls):
        assert (await calls.send(b"x" * 60, b"x" * 60)).status_code == 413

    run(test)


def test_a_caller_who_leaves_gives_its_part_back():
    async def test(calls):
        call = asyncio.create_task(calls.send(b"1234567", until=calls.answer))
        await calls.held(7)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    run(test)
