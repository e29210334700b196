"""A mail server for tests: it keeps what it is sent, and answers what a test told it to."""

import asyncio
import ssl
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import SimpleNamespace, TracebackType
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

DROP, HANG = "drop", "hang"
Script = Callable[[str, str], str | None]
"""(stage, address) -> the answer; DROP: the connection ends without one; HANG: none comes; None: as usual. Stages
are connect, mail, rcpt, data (the command) and end (the message, which is kept whatever the answer)."""


def once(stage: str, answer: str) -> Script:
    """That answer the first time."""
    return after(0, stage, answer)


def after(count: int, stage: str, answer: str) -> Script:
    """That answer to one more, when there were `count` already."""
    seen = 0

    def script(at: str, _address: str) -> str | None:
        nonlocal seen
        seen += at == stage
        return answer if at == stage and seen == count + 1 else None

    return script


def always(stage: str, answer: str) -> Script:
    return lambda at, _address: answer if at == stage else None


@dataclass(frozen=True)
class Received:
    """One message, as it came in."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    encrypted: bool

    @property
    def message(self) -> EmailMessage:
        parsed = message_from_bytes(self.content, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed


class MailServer(AbstractContextManager["MailServer"]):
    """Listens on a port of its own until the context ends. `received`: in order; `connections`: how many there
    were; `heard`: what the script was asked, as (stage, address)."""

    def __init__(
        self,
        script: Script = lambda _stage, _address: None,
        *,
        tls: ssl.SSLContext | None = None,
        starttls: ssl.SSLContext | None = None,
        account: tuple[str, str] | None = None,
        utf8: bool = False,
        pipelining: bool = True,
    ) -> None:
        self.script = script
        self.received: list[Received] = []
        self.heard: list[tuple[str, str]] = []
        self.connections = 0
        self.port = 0
        self._tls = tls
        self._options: dict[str, Any] = {"enable_SMTPUTF8": utf8, "tls_context": starttls, "hostname": "mail.test"}
        self._pipelining = pipelining
        self._account = account
        if account:
            self._options |= {"authenticator": self._authenticate, "auth_require_tls": False}
        self.clients: set[asyncio.BaseTransport] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    @property
    def messages(self) -> list[EmailMessage]:
        return [received.message for received in self.received]

    def __enter__(self) -> "MailServer":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def drop_all(self) -> None:
        """Ends every connection, as a server that restarts."""
        for client in list(self.clients):
            self._loop.call_soon_threadsafe(client.abort)  # type: ignore[attr-defined]

    async def answer(self, server: SMTP, stage: str, address: str = "") -> str | None:
        self.heard.append((stage, address))
        said = self.script(stage, address)
        if said == HANG:
            await asyncio.Event().wait()
        if said == DROP:
            assert server.transport is not None
            server.transport.abort()  # type: ignore[attr-defined]
            raise asyncio.CancelledError
        return said

    async def handle_EHLO(
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", responses[-1]] if self._pipelining else responses

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self._account and not session.authenticated:
            return "530 5.7.0 sign in first"
        if said := await self.answer(server, "mail", address):
            return said
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_RCPT(
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if said := await self.answer(server, "rcpt", address):
            return said
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        encrypted = server.transport is not None and server.transport.get_extra_info("sslcontext") is not None
        received = Received(envelope.mail_from or "", tuple(envelope.rcpt_tos), envelope.content, encrypted)
        self.received.append(received)
        said = await self.answer(server, "end", ", ".join(envelope.rcpt_tos))
        return said or f"250 2.0.0 Ok: queued as {len(self.received):06X}"

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _how: str, given: Any
    ) -> AuthResult:
        assert isinstance(given, LoginPassword)
        right = (given.login.decode(), given.password.decode()) == self._account
        return AuthResult(success=right, handled=False)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await self._loop.create_server(
            lambda: _Client(self, self._options), "127.0.0.1", 0, ssl=self._tls
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for client in list(self.clients):
            client.abort()  # type: ignore[attr-defined]
        await asyncio.sleep(0)


class _Client(SMTP):
    """One connection."""

    def __init__(self, fake: MailServer, options: dict[str, Any]) -> None:
        names = (
            "handle_EHLO",
            "handle_MAIL",
            "handle_RCPT",
            "handle_DATA",
        )  # and no other: aiosmtpd reads every property
        super().__init__(SimpleNamespace(**{name: getattr(fake, name) for name in names}), **options)
        self._fake = fake
        self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._fake_has(transport):
            self._fake.connections += 1
        self._fake.clients.add(transport)
        super().connection_made(transport)

    def _fake_has(self, transport: asyncio.BaseTransport) -> bool:
        """STARTTLS makes a second transport of the same connection."""
        return transport.get_extra_info("sslcontext") is not None and self._fake._tls is None

    def connection_lost(self, error: Exception | None) -> None:
        self._fake.clients.discard(self.transport)
        super().connection_lost(error)

    async def push(self, status: str) -> None:
        if not self._greeted:
            self._greeted = True
            status = await self._fake.answer(self, "connect") or status
        await super().push(status)

    async def smtp_DATA(self, arg: str) -> None:
        if said := await self._fake.answer(self, "data"):
            await self.push(said)
        else:
            await super().smtp_DATA(arg)
