"""uvicorn, with what a server of many long connections needs besides.

- the head of a request is bounded in time and size: httptools itself waits, and grows, for ever
- an application can break off a connection that nobody reads (`scope["tocsin.abort"]`)
- connections whose other end is gone are found by the kernel (TCP_USER_TIMEOUT), also when they are idle
- before it waits for connections to end, it ends them
"""

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from workers import serving
from workers.gateway.app import Gateway

HEAD_SECONDS = 10.0
HEAD_BYTES = 32 * 1024
CLOSE_SECONDS = 1.0
"""What a browser has to answer the closing of a WebSocket; then it is closed without."""
DEAD_AFTER = 20_000
"""Milliseconds in which the other end has to acknowledge something."""
BACKLOG = 2048


class Http(HttpToolsProtocol):
    """uvicorn's protocol of one connection."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def _await_head(self) -> None:
        self._head_done()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _head_done(self) -> None:
        self._head_bytes = 0
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_timer:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()
        self.scope["tocsin.abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        self._head_done()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_done()
        super().connection_lost(exc)


class WebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol of one WebSocket."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = CLOSE_SECONDS


class Server(serving.Server):
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        super().__init__(
            uvicorn.Config(
                gateway,
                http=Http,
                ws=WebSocket,
                ws_max_size=16 * 1024,
                ws_per_message_deflate=False,
                ws_ping_interval=None,  # engine.io asks for itself
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=2,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.hub.end_all("shutdown")
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """The socket to accept connections on; raises OSError, as when the port is taken."""
    family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, number)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted connections inherit it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
