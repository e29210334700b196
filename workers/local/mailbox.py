"""The local mailbox: it takes every mail by SMTP, sends none on, and keeps the last ones as .eml files."""

import asyncio
import email
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

KEPT = 200
"""Mails; older ones are removed."""
LARGEST = 10 * 1024 * 1024
"""Bytes of one mail."""
_PREVIEW = 140
"""Characters of its text that the list shows."""
_ID = re.compile(r"\d{16}-[0-9a-f]{8}")
_UNREADABLE = "(unreadable)"


@dataclass(frozen=True, slots=True)
class Mail:
    """What a list shows of a mail."""

    id: str
    at: datetime
    sender: str
    to: str
    subject: str
    preview: str


class Mailbox:
    """The mails in `directory`, also those of an earlier run. `version` moves with every change."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._mails: dict[str, Mail] = {}
        self.version = 0
        for path in sorted(directory.glob("*.eml")):
            if _ID.fullmatch(path.stem):
                self._enter(path.stem, path.read_bytes())

    @property
    def mails(self) -> list[Mail]:
        """Newest first."""
        return list(reversed(self._mails.values()))

    def raw(self, id: str) -> bytes | None:
        """A mail as it came in, below the lines of its envelope; None when there is no such mail."""
        return self._path(id).read_bytes() if id in self._mails else None

    def add(self, content: bytes, sender: str, recipients: list[str]) -> Mail:
        """Keeps a mail, below the lines that a mail server adds at the end of its way (RFC 5321, 4.4)."""
        envelope = [f"Return-Path: <{sender}>", *(f"Delivered-To: {address}" for address in recipients)]
        raw = "".join(f"{line}\r\n" for line in envelope).encode() + content
        id = f"{time.time_ns() // 1000:016d}-{secrets.token_hex(4)}"
        path = self._path(id)
        path.touch(mode=0o600)
        path.write_bytes(raw)
        return self._enter(id, raw)

    def clear(self) -> None:
        for id in list(self._mails):
            self._remove(id)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        """Called by aiosmtpd for each mail; answers the client's DATA."""
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        mail = self.add(content, envelope.mail_from or "", envelope.rcpt_tos)
        return f"250 2.0.0 Ok: queued as {mail.id}"

    @asynccontextmanager
    async def listening(self, listener: socket.socket) -> AsyncIterator[None]:
        """Takes mail while it is open."""
        loop = asyncio.get_running_loop()

        def protocol() -> SMTP:
            return SMTP(
                self,
                data_size_limit=LARGEST,
                enable_SMTPUTF8=True,
                hostname="localhost",
                ident="Tocsin mailbox",
                loop=loop,
            )

        server = await loop.create_server(protocol, sock=listener)
        try:
            yield
        finally:
            server.close()

    def _enter(self, id: str, raw: bytes) -> Mail:
        message = read(raw)
        at = datetime.fromtimestamp(int(id.partition("-")[0]) / 1_000_000, UTC)
        preview = " ".join(text_of(message).split())[:_PREVIEW]
        sender, to, subject = (header(message, name) for name in ("From", "To", "Subject"))
        mail = self._mails[id] = Mail(id, at, sender, to, subject or "(no subject)", preview)
        if len(self._mails) > KEPT:
            self._remove(next(iter(self._mails)))
        self.version += 1
        return mail

    def _remove(self, id: str) -> None:
        del self._mails[id]
        self._path(id).unlink(missing_ok=True)
        self.version += 1

    def _path(self, id: str) -> Path:
        return self._directory / f"{id}.eml"


def read(raw: bytes) -> EmailMessage:
    return email.message_from_bytes(raw, policy=default)


def header(message: EmailMessage, name: str) -> str:
    """Decoded; empty when the mail has none. A mail may hold what the standard library cannot read: it is shown
    all the same, with that said in its place."""
    try:
        return str(message.get(name, ""))
    except Exception:
        return _UNREADABLE


def headers(message: EmailMessage) -> list[tuple[str, str]]:
    """All of them, decoded, in their order."""
    return [(name, _decoded(message, name, value)) for name, value in message.raw_items()]


def _decoded(message: EmailMessage, name: str, value: str) -> str:
    try:
        return str(message.policy.header_fetch_parse(name, value))
    except Exception:  # as above
        return _UNREADABLE


def text_of(message: EmailMessage) -> str:
    """Its text part, or nothing."""
    return _part(message, "plain")


def html_of(message: EmailMessage) -> str:
    """Its HTML part, or nothing."""
    return _part(message, "html")


def _part(message: EmailMessage, kind: str) -> str:
    try:
        part = message.get_body((kind,))
        return str(part.get_content()) if part else ""
    except Exception:  # as above
        return _UNREADABLE
