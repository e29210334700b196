"""What browsers are sent, byte by byte, and what the gateway takes for granted of its libraries.

The golden files are what is deployed in other people's pages: a change of one is a change for all of them.
"""

import asyncio
import inspect
import re
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import jwt
import msgspec
import pytest
import socketio
from engineio.async_socket import AsyncSocket
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from schema.errors import FieldError
from schema.wire import Group, InboxItem, Publication
from workers.gateway import watched
from workers.gateway.connection import Event
from workers.gateway.refusal import Refused, refuse, unknown
from workers.gateway.writer import frame

GOLDEN = Path(__file__).parent / "golden" / "gateway"
AT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
ITEM = InboxItem(
    id=UUID("019b7e2f-0000-7000-8000-000000000001"),
    seq=42,
    type="comment",
    category="social",
    importance="normal",
    title="New comment",
    message="Bob: “Grüße” </script>\n2nd line",
    data={"postId": "p-1", "n": 1},
    action_url="/posts/p-1",
    created_at=AT,
    read=False,
)
GROUP = msgspec.structs.replace(
    ITEM,
    seq=43,
    title="5 new comments",
    action_url=None,
    read=True,
    read_at=AT,
    clicked_at=AT,
    archived_at=AT,
    group=Group(5, [UUID(int=1), UUID(int=2)]),
)


def refused(error):
    request = Request({"type": "http", "method": "GET", "path": "/api/x", "headers": [], "query_string": b""})
    response = asyncio.run(refuse(request, error))
    head = [
        f"{response.status_code}",
        *(f"{k}: {v}" for k, v in response.headers.items() if k != "content-length"),
    ]
    return "\n".join([*head, "", ""]).encode() + response.body


SAID = {
    "notification.sse": lambda: frame(watched.notification(ITEM)),
    "notification-group.sse": lambda: frame(watched.notification(GROUP)),
    "unread-count.sse": lambda: frame(watched.unread_count(3, 7)),
    "gap.sse": lambda: frame(watched.gap("too far back", 43)),
    "gap-changed.sse": lambda: frame(watched.gap("changed")),
    "read.sse": lambda: frame(Event("read", msgspec.json.encode({"ids": [ITEM.id]}))),
    "page.json": lambda: msgspec.json.encode({"notifications": [GROUP, ITEM], "next": 42}),
    "publication-notification.json": lambda: msgspec.json.encode(Publication("notification", 7, 3, ITEM)),
    "publication-read.json": lambda: msgspec.json.encode(Publication("read", 8, 2, ids=[ITEM.id])),
    "publication-read-all.json": lambda: msgspec.json.encode(Publication("read", 9, 0)),
    "unknown.problem": lambda: refused(unknown()),
    "fields.problem": lambda: refused(
        Refused(422, "the request does not fit", [FieldError("limit", "too large")])
    ),
    "unauthorized.problem": lambda: refused(Refused(401, "no token", headers={"www-authenticate": "Bearer"})),
}


@pytest.mark.parametrize("name", SAID)
def test_what_is_said_is_what_it_was(name):
    assert SAID[name]().decode() == (GOLDEN / name).read_text()


def test_every_golden_file_is_looked_at():
    assert {file.name for file in GOLDEN.iterdir()} == set(SAID)


@pytest.mark.parametrize("name", [name for name in SAID if name.startswith("publication")])
def test_a_publication_is_read_as_it_was_written(name):
    told = msgspec.json.decode((GOLDEN / name).read_bytes(), type=Publication)
    assert msgspec.json.encode(told) == (GOLDEN / name).read_bytes()


def test_an_event_is_one_line_of_data():
    """A line break inside data would end it (WHATWG HTML, 9.2.6)."""
    lines = frame(watched.notification(ITEM)).split(b"\n")
    assert [line.partition(b":")[0] for line in lines] == [b"event", b"id", b"data", b"", b""]
    assert b"\r" not in frame(watched.notification(ITEM))


def test_uvicorn_has_the_names_that_are_used():
    for name in ("connection_made", "connection_lost", "data_received", "on_message_begin", "on_headers_complete"):
        assert callable(getattr(HttpToolsProtocol, name))
    written = inspect.getsource(HttpToolsProtocol)
    assert "self.loop" in written
    assert "self.transport" in written
    assert "self.scope" in written
    assert "self.close_timeout" in inspect.getsource(WebSocketsSansIOProtocol)


def test_engine_io_has_the_names_that_are_used():
    server = socketio.AsyncServer(async_mode="asgi")
    assert server.eio.sockets == {}
    assert server.environ == {}
    assert callable(server.manager.eio_sid_from_sid)
    socket = AsyncSocket(server.eio, "sid")
    assert socket.queue.qsize() == 0
    assert (socket.closed, socket.upgraded) == (False, False)
    assert "asgi.scope" in inspect.getsource(inspect.getmodule(server.eio._async["translate_request"]))


def test_engine_io_switches_its_origin_check_off_for_an_empty_list():
    """Why the list of origins must never be empty."""
    written = inspect.getsource(type(socketio.AsyncServer(async_mode="asgi").eio))
    assert re.search(r"cors_allowed_origins != \[\]", written)


def test_a_retry_that_knows_no_error_does_not_reconnect():
    async def scenario():
        tried, reconnected = [], []

        async def fail():
            tried.append(1)
            raise ConnectionError

        async def reconnect(error):
            reconnected.append(error)

        with pytest.raises(ConnectionError):
            await Retry(NoBackoff(), 0, supported_errors=()).call_with_retry(fail, reconnect)
        assert (len(tried), reconnected) == (1, [])

    asyncio.run(scenario())


def test_pyjwt_accepts_a_token_without_exp_and_aud_unless_told_otherwise():
    """Why both are required by name."""
    key = "x" * 32
    bare = jwt.encode({"sub": "ada"}, key, algorithm="HS256")
    assert jwt.decode(bare, key, algorithms=["HS256"]) == {"sub": "ada"}
