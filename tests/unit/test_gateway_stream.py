"""Server-sent events as bytes, and how they are written, driven as an ASGI server drives it."""

import asyncio
import time

import pytest
from starlette.requests import Request

from workers.gateway import writer
from workers.gateway.connection import Connection, Event
from workers.gateway.stream import NOWHERE, first_frame, last_seen
from workers.gateway.writer import Blocked, Gone, Writer, frame


def request(header=None, query=""):
    headers = [(b"last-event-id", header.encode())] if header is not None else []
    return Request({"type": "http", "headers": headers, "query_string": query.encode()})


@pytest.mark.parametrize(
    ("header", "query", "place"),
    [
        (None, "", None),
        ("", "", None),
        (None, "lastEventId=", None),
        ("0", "", 0),
        ("17", "", 17),
        ("17", "lastEventId=5", 17),
        (None, "lastEventId=5", 5),
        ("-1", "", NOWHERE),
        ("1.5", "", NOWHERE),
        ("never", "", NOWHERE),
        ("9" * 19, "", NOWHERE),
        ("9" * 5000, "", NOWHERE),
    ],
)
def test_the_place_to_go_on_from(header, query, place):
    assert last_seen(request(header, query)) == place


def test_a_place_in_digits_of_another_script_is_none():
    assert last_seen(request(None, "lastEventId=%D9%A1")) == NOWHERE


def test_an_event_with_a_place_has_an_id():
    assert frame(Event("notification", b"{}", 7)) == b"event: notification\nid: 7\ndata: {}\n\n"
    assert frame(Event("unread-count", b'{"count":1}')) == b'event: unread-count\ndata: {"count":1}\n\n'


def test_the_first_block_has_an_id_and_a_time_that_differs():
    blocks = {first_frame(7) for _ in range(100)}
    assert len(blocks) > 10
    for block in blocks:
        first, retry, *rest = block.decode().split("\n")
        assert (first, rest) == ("id: 7", ["", ""])
        assert 1000 <= int(retry.removeprefix("retry: ")) <= 4000


class Server:
    """An ASGI server with one browser: as uvicorn does, it waits for room before it writes."""

    def __init__(self, expires=4e9):
        self.written, self.asked = [], 0
        self.gone, self.room = asyncio.Event(), asyncio.Event()
        self.room.set()
        self.writer = Writer(self.receive, self.send)
        self.connection = self.writer.connection = Connection("ada", expires, "sse", self.writer.wake)
        self.connection.begin(0, 0, Event("gap", b"{}"))

    async def receive(self):
        self.asked += 1
        if self.asked == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await self.room.wait()
        self.written.append(message["body"])

    def push(self, *seqs):
        self.connection.push([told(seq) for seq in seqs])


def told(seq):
    return Event("notification", b"{}", seq)


def run(scenario):
    async def bounded():
        async with asyncio.timeout(5):
            await scenario()

    asyncio.run(bounded())


def test_news_are_written_past_the_sleeping_task_and_together():
    async def scenario():
        server = Server()
        server.push(1)  # nobody sleeps: whoever goes to sleep looks first
        assert server.connection.take() == [told(1)]
        sleeping = asyncio.create_task(server.writer.sleep())
        await asyncio.sleep(0)
        for seq in (2, 3):
            server.push(seq)
        count = Event("unread-count", b"1", version=3)
        server.connection.push_count(count)
        await asyncio.sleep(0)
        assert server.written == [frame(told(2)) + frame(told(3)) + frame(count)]
        server.push(4)
        await asyncio.sleep(0)
        assert server.written[1:] == [frame(told(4))]
        assert server.asked == 2, "the task slept all the while"
        sleeping.cancel()

    run(scenario)


def test_what_there_is_no_room_for_is_written_when_there_is_and_in_order():
    async def scenario():
        server = Server()
        sleeping = asyncio.create_task(server.writer.sleep())
        await asyncio.sleep(0)
        server.room.clear()
        server.push(*range(1, 121))
        while server.writer._sleep:
            await asyncio.sleep(0)
        assert server.written == []
        server.push(121)
        server.room.set()
        await sleeping
        assert len(server.written) == 3, "not all in one piece"
        assert b"".join(server.written) == b"".join(frame(told(seq)) for seq in range(1, 121))
        assert server.connection.take() == [told(121)], "what came meanwhile is for the task"

    run(scenario)


@pytest.mark.parametrize("ping", [20.0, 0.01])
def test_who_does_not_read_is_found_out(monkeypatch, ping):
    """With something to tell, or with a comment only."""
    monkeypatch.setattr(writer, "BLOCKED", 0.01)
    monkeypatch.setattr(writer, "PING", ping)

    async def scenario():
        server = Server()
        server.room.clear()
        sleeping = asyncio.create_task(server.writer.sleep())
        await asyncio.sleep(0)
        if ping > 1:
            server.push(1)
        with pytest.raises(Blocked):
            await sleeping
        with pytest.raises(Blocked):
            await server.writer.body(b"x")
        assert server.written == []

    run(scenario)


def test_the_task_is_woken_by_the_end_by_expiry_and_by_going():
    async def scenario():
        ended, expired, gone = Server(), Server(time.time() + 0.05), Server()
        sleeping = [asyncio.create_task(server.writer.sleep()) for server in (ended, expired, gone)]
        await asyncio.sleep(0)
        ended.connection.end("shutdown")
        await sleeping[0]
        await sleeping[1]
        assert time.time() >= expired.connection.expires
        gone.gone.set()
        with pytest.raises(Gone):
            await sleeping[2]
        assert ended.written == expired.written == gone.written == []

    run(scenario)


def test_silence_is_broken_by_a_comment(monkeypatch):
    monkeypatch.setattr(writer, "PING", 0.01)
    server = None

    async def scenario():
        nonlocal server
        server = Server(time.time() + 2)
        await server.writer.sleep()

    run(scenario)
    assert len(server.written) > 1
    assert set(server.written) == {b": ping\n\n"}
