"""Server-sent events as bytes, and the loop that writes them, driven as an ASGI server drives it."""

import asyncio
import time

import pytest
from starlette.requests import Request

from workers.gateway import stream
from workers.gateway.connection import Connection, Event
from workers.gateway.stream import NOWHERE, Gone, Stream, Writer, first_frame, frame, last_seen


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


def test_a_sleeping_writer_is_woken_by_news_by_time_and_by_going():
    async def scenario():
        gone = asyncio.Event()
        asked = 0

        async def receive():
            nonlocal asked
            asked += 1
            if asked == 1:
                return {"type": "http.request", "body": b"", "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            raise AssertionError(message)

        writer = Writer(receive, send)
        writer.wake()  # nobody sleeps: nothing happens
        async with asyncio.timeout(5):
            asyncio.get_running_loop().call_soon(writer.wake)
            asyncio.get_running_loop().call_soon(writer.wake)
            await writer.sleep(1000)
            await writer.sleep(0.01)
            asyncio.get_running_loop().call_soon(gone.set)
            with pytest.raises(Gone):
                await writer.sleep(1000)

    asyncio.run(scenario())


def test_a_write_that_nobody_reads_is_given_up(monkeypatch):
    monkeypatch.setattr(stream, "BLOCKED", 0.01)

    async def scenario():
        async def send(message):
            await asyncio.Event().wait()

        with pytest.raises(stream.Blocked):
            await Writer(send, send).body(b"x")

    asyncio.run(scenario())


def test_silence_is_broken_by_a_comment(monkeypatch):
    """The whole loop of a stream that has nothing to tell, until its token expires."""
    monkeypatch.setattr(stream, "PING", 0.01)
    written = []

    async def scenario():
        async def receive():
            await asyncio.Event().wait()

        async def send(message):
            written.append(message["body"])

        connection = Connection("ada", time.time() + 0.2, "sse", lambda: None)
        connection.begin(0, 0, Event("gap", b"{}"))
        async with asyncio.timeout(5):
            await Stream._tell(connection, Writer(receive, send), [Event("unread-count", b"{}")])

    asyncio.run(scenario())
    assert written[0] == b"event: unread-count\ndata: {}\n\n"
    assert len(written) > 3
    assert set(written[1:]) == {b": ping\n\n"}
