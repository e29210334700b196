"""Socket.IO, with the official client: the same events as the stream, marking as read, and closed doors."""

import asyncio
import base64
import gc
import json
import os
import socket
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import msgspec
import pytest
import socketio

pytest_plugins = ["tests.integration.gateways"]
# The official client lets go of the answers to its POSTs unread; they are collected where that is allowed.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")

TRANSPORTS = (["websocket"], ["polling"], ["polling", "websocket"])
EVENTS = ("unread-count", "notification", "read", "archived", "gap")


class Tab:
    """A connected client, and everything it was told."""

    def __init__(self):
        self.client = socketio.AsyncClient(reconnection=False)
        self.told = []
        self.refused = []
        self.left = []
        for event in EVENTS:
            self.client.on(event, lambda data, event=event: self.told.append((event, data)))
        self.client.on("connect_error", self.refused.append)
        self.client.on("disconnect", self.left.append)

    def items(self):
        return [data for event, data in self.told if event == "notification"]

    def seqs(self):
        return [item["seq"] for item in self.items()]

    def count(self):
        return ([None] + [data["count"] for event, data in self.told if event == "unread-count"])[-1]


async def hang_up(client):
    """A polling client would wait for the answer to its last question, up to 20 s."""
    carrier = client.eio
    polling = carrier.state == "connected" and carrier.current_transport == "polling"
    going = asyncio.create_task(client.disconnect())
    if polling:
        await asyncio.wait([carrier.write_loop_task])  # it says goodbye
        carrier.read_loop_task.cancel()
    await asyncio.wait([going])
    if carrier.http:
        await carrier.http.close()
    gc.collect()


@asynccontextmanager
async def connected(gateway, auth=None, transports=None, headers=None):
    tab = Tab()
    try:
        await tab.client.connect(
            gateway.url, auth=auth, transports=transports, headers=headers or {}, wait_timeout=10
        )
        yield tab
    finally:
        await hang_up(tab.client)


def auth(gateway, user, **further):
    return {"token": gateway.signed(user)} | further


@pytest.mark.parametrize("transports", TRANSPORTS, ids="-".join)
def test_it_tells_the_count_and_each_notification(gateway, name, until, transports):
    async def scenario():
        gateway.inboxes.write(name)
        async with connected(gateway, auth(gateway, name), transports) as tab:
            await until(lambda: tab.told == [("unread-count", {"count": 1})])
            written = gateway.inboxes.tell(name)
            await until(lambda: tab.seqs() == [2])
            (item,) = tab.items()
            assert item["id"] == str(written.id)
            assert set(item) == set(gateway.get(name, "/api/notifications").json()["notifications"][0])
            await until(lambda: tab.count() == 2)

    asyncio.run(scenario())


@pytest.mark.parametrize("transports", TRANSPORTS, ids="-".join)
def test_it_goes_on_where_the_browser_was(gateway, name, until, transports):
    async def scenario():
        for _ in range(200):
            gateway.inboxes.write(name)
        async with connected(gateway, auth(gateway, name, lastSeq=20), transports) as tab:
            await until(lambda: len(tab.seqs()) >= 180, 20)
            gateway.inboxes.tell(name)
            await until(lambda: len(tab.seqs()) >= 181)
            assert tab.seqs() == list(range(21, 202))

    asyncio.run(scenario())


@pytest.mark.parametrize("place", [5, -1, "1", 1.5, 2**70])
def test_a_place_that_never_was_is_a_gap(gateway, name, until, place):
    async def scenario():
        gateway.inboxes.write(name)
        async with connected(gateway, auth(gateway, name, lastSeq=place)) as tab:
            await until(lambda: [event for event, _ in tab.told] == ["unread-count", "gap"])

    asyncio.run(scenario())


def test_marking_as_read_is_acknowledged_and_told_to_every_tab(gateway, name, until):
    async def scenario():
        items = [gateway.inboxes.write(name).item for _ in range(3)]
        listener = gateway.listen(name)
        async with (
            connected(gateway, auth(gateway, name)) as tab,
            connected(gateway, auth(gateway, name)) as other,
        ):
            await until(lambda: tab.count() == other.count() == 3)
            id_ = str(items[0].id)
            for _ in range(2):
                assert await tab.client.call("mark-as-read", id_) == {"ok": True, "count": 2}
            assert await tab.client.call("mark-all-as-read") == {"ok": True, "count": 0}
            await until(lambda: tab.count() == other.count() == 0)
            for one in (tab, other):
                changes = [(event, data) for event, data in one.told if event != "unread-count"]
                assert changes == [("read", {"ids": [id_]}), ("read", {"all": True})]
            assert gateway.inboxes.unread(name) == 0
        await asyncio.to_thread(listener.count, 0)

    asyncio.run(scenario())


def test_what_is_not_ones_own_is_not_marked(gateway, name, until):
    async def scenario():
        theirs = gateway.inboxes.write(f"{name}-other").item
        async with connected(gateway, auth(gateway, name)) as tab:
            for given in (str(theirs.id), "five", "", None, 5, [], {"id": str(theirs.id)}):
                answer = await tab.client.call("mark-as-read", given)
                assert answer == {"ok": False, "error": "no such notification"}
            assert await tab.client.call("mark-as-read") == {"ok": False, "error": "no such notification"}
        assert gateway.inboxes.unread(f"{name}-other") == 1

    asyncio.run(scenario())


def test_whose_events_come_is_said_by_the_token_alone(gateway, name, until):
    async def scenario():
        given = auth(gateway, name) | {"user": f"{name}-other", "room": f"tocsin:user:{name}-other"}
        async with connected(gateway, given) as tab:
            await until(lambda: tab.count() == 0)
            for event in ("join", "subscribe", "enter_room"):
                await tab.client.emit(event, f"tocsin:user:{name}-other")
            gateway.inboxes.tell(f"{name}-other", "for another")
            gateway.inboxes.tell(name, "for me")
            await until(tab.items)
            assert [item["title"] for item in tab.items()] == ["for me"]

    asyncio.run(scenario())


def refusals(gateway, name):
    soon = datetime.now(UTC) - timedelta(seconds=1)
    return {
        "nothing": (None, {}),
        "no token": ({}, {}),
        "rubbish": ({"token": "x"}, {}),
        "a number": ({"token": 5}, {}),
        "a text": ("token", {}),
        "expired": ({"token": gateway.signed(name, exp=soon)}, {}),
        "another audience": ({"token": gateway.signed(name, aud="api")}, {}),
        "a cookie of nowhere": (None, {"cookie": f"tocsin_token={gateway.signed(name)}"}),
        "a cookie of another site": (
            None,
            {"cookie": f"tocsin_token={gateway.signed(name)}", "sec-fetch-site": "same-site"},
        ),
    }


@pytest.mark.parametrize(
    "case",
    [
        "nothing",
        "no token",
        "rubbish",
        "a number",
        "a text",
        "expired",
        "another audience",
        "a cookie of nowhere",
        "a cookie of another site",
    ],
)
def test_whoever_has_no_token_that_counts_is_refused(gateway, name, case):
    async def scenario():
        given, headers = refusals(gateway, name)[case]
        with pytest.raises(socketio.exceptions.ConnectionError):
            async with connected(gateway, given, ["websocket"], headers):
                pass

    asyncio.run(scenario())


def test_a_refusal_says_why(gateway, until):
    async def scenario():
        tab = Tab()
        with pytest.raises(socketio.exceptions.ConnectionError):
            await tab.client.connect(gateway.url, auth={"token": "x"}, transports=["websocket"])
        assert tab.refused == [{"message": "this is no token", "data": {"status": 401}}]
        await tab.client.disconnect()

    asyncio.run(scenario())


@pytest.mark.parametrize("transports", TRANSPORTS[:2], ids="-".join)
def test_a_cookie_of_our_own_page_counts(gateway, name, until, transports):
    async def scenario():
        cookie = {"cookie": f"tocsin_token={gateway.signed(name)}"}
        for proof in ({"origin": gateway.url}, {"sec-fetch-site": "same-origin"}):
            async with connected(gateway, None, transports, cookie | proof) as tab:
                await until(lambda tab=tab: tab.count() == 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", ""])
def test_a_foreign_page_gets_no_socket(gateway, name, origin):
    cookie = f"tocsin_token={gateway.signed(name)}"
    refused = websocket(gateway, f"Origin: {origin}", f"Cookie: {cookie}", status=403)
    refused.close()
    path = "/socket.io/?EIO=4&transport=polling"
    answer = gateway.client.get(path, headers={"origin": origin, "cookie": cookie})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    websocket(gateway, f"Origin: {gateway.url}").close()


def test_cors_headers_are_said_once(gateway):
    path = "/socket.io/?EIO=4&transport=polling"
    answer = gateway.client.get(path, headers={"origin": gateway.url})
    assert answer.headers.get_list("access-control-allow-origin") == [gateway.url]


@pytest.mark.parametrize("transports", TRANSPORTS[:2], ids="-".join)
def test_a_socket_ends_with_its_token(gateway, name, until, transports):
    async def scenario():
        token = gateway.signed(name, exp=datetime.now(UTC) + timedelta(seconds=2))
        async with connected(gateway, {"token": token}, transports) as tab:
            await until(lambda: tab.left)

    asyncio.run(scenario())


def websocket(gateway, *headers, status=101):
    """A WebSocket by hand, after the handshake."""
    host, port = gateway.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=15)
    key = base64.b64encode(os.urandom(16)).decode()
    head = [
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    connection.sendall("\r\n".join([*head, "", ""]).encode())
    assert connection.recv(4096).startswith(b"HTTP/1.1 %d" % status)
    return connection


def frame(payload, opcode=1):
    """A masked frame of a client, with a mask of zeros."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


def closed(connection):
    """Reads until the other end closes; the seconds it took."""
    begun = time.monotonic()
    try:
        while connection.recv(65536):
            continue
    except ConnectionResetError:
        pass
    return time.monotonic() - begun


def test_who_does_not_say_who_it_is_is_closed_within_ten_seconds(gateway):
    """A WebSocket that never sends CONNECT, one that is refused and stays, and a polling session."""
    silent, refused = websocket(gateway), websocket(gateway)
    opened = gateway.client.get("/socket.io/?EIO=4&transport=polling").text
    session = json.loads(opened[1:])["sid"]
    refused.sendall(frame(b'40{"token":"x"}'))
    with silent, refused:
        assert closed(silent) < 10
        assert closed(refused) < 10
    deadline = time.monotonic() + 10
    poll = f"/socket.io/?EIO=4&transport=polling&sid={session}"
    while (answer := gateway.client.get(poll)).status_code == 200:
        assert time.monotonic() < deadline, answer.text
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "sent",
    [
        frame(b"4" + b"x" * 17_000),
        frame(b'451-["x",{"_placeholder":true,"num":0}]') + frame(b"binary", opcode=2),
        frame(b"\xff\xff"),
    ],
    ids=["too large", "binary", "not UTF-8"],
)
def test_frames_that_are_not_ours_end_the_socket(gateway, name, sent):
    with websocket(gateway) as connection:
        connection.sendall(frame(b"40" + json.dumps(auth(gateway, name)).encode()))
        said = b""
        while b"unread-count" not in said:
            said += connection.recv(4096)
        connection.sendall(sent)
        assert closed(connection) < 8


def test_whoever_does_not_read_is_closed_and_others_hear_everything(gateway, name, until):
    before = gateway.metric("tocsin_gateway_slow_closed_total")

    async def scenario():
        stalled = websocket(gateway)
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.sendall(frame(b"40" + json.dumps(auth(gateway, name)).encode()))
        async with connected(gateway, auth(gateway, name)) as tab:
            await until(lambda: tab.count() == 0)
            begun, told = time.monotonic(), 0
            while gateway.metric("tocsin_gateway_slow_closed_total") == before:
                assert time.monotonic() - begun < 60, "still open"
                for _ in range(20):
                    publication = gateway.inboxes.write(name)
                    publication.item.data = {"a": "x" * 50_000}
                    gateway.inboxes.publish(name, publication)
                told += 20
                await until(lambda told=told: len(tab.seqs()) == told)
            assert tab.seqs() == list(range(1, told + 1))

            def open_sockets():
                return gateway.metric('tocsin_gateway_connections{transport="socketio"}')

            await until(lambda: open_sockets() == 1, 20)
        stalled.close()

    asyncio.run(scenario())


def test_sockets_are_counted_and_given_back(gateway, name, until):
    def open_sockets():
        return gateway.metric('tocsin_gateway_connections{transport="socketio"}')

    async def scenario():
        for transports in TRANSPORTS:
            async with connected(gateway, auth(gateway, name), transports) as tab:
                await until(lambda tab=tab: tab.count() == 0)
                assert open_sockets() == 1
            await until(lambda: open_sockets() == 0)

    asyncio.run(scenario())


def test_a_gateway_that_stops_says_goodbye(start, environment, settings, eventually, token, until):
    """SIGTERM ends streams and sockets at once, without an error in the log."""
    process = start(environment, "python", "-m", "workers.gateway")
    url = f"http://127.0.0.1:{settings.gateway_port}"

    def answers():
        try:
            return httpx.get(f"{url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    eventually(answers, 60)

    async def scenario():
        tab = Tab()
        await tab.client.connect(url, auth={"token": token("ada")}, transports=["websocket"])
        headers = {"authorization": f"Bearer {token('ada')}"}
        async with (
            httpx.AsyncClient() as client,
            client.stream("GET", f"{url}/api/notifications/stream", headers=headers) as response,
        ):
            await until(lambda: tab.count() == 0)
            begun = time.monotonic()
            process.popen.terminate()
            async for _ in response.aiter_bytes():
                continue
            await until(lambda: tab.left)
            await asyncio.to_thread(process.popen.wait, 10)
            assert time.monotonic() - begun < 5
        await tab.client.disconnect()

    asyncio.run(scenario())
    assert [line for line in process.lines() if line["level"] in ("warning", "error")] == []


def test_a_burst_to_one_user_does_not_close_a_socket_that_reads(gateway, name, until):
    """300 publications in one packet, as deliver-web sends them."""

    async def scenario():
        async with connected(gateway, auth(gateway, name), ["websocket"]) as tab:
            await until(lambda: tab.count() == 0)
            told = [gateway.inboxes.write(name) for _ in range(300)]
            pipe = gateway.inboxes.redis.pipeline(transaction=False)
            for publication in told:
                pipe.publish(f"tocsin:user:{name}", msgspec.json.encode(publication))
            pipe.execute()
            await until(lambda: len(tab.seqs()) >= 300)
            assert tab.seqs() == list(range(1, 301))
            await until(lambda: tab.count() == 300)
            assert tab.left == []

    asyncio.run(scenario())
