"""The connection to the mail server: one per thread, kept between mails. What the server answers is reported, not
judged; what ended the connection is raised as Broken."""

import re
import smtplib
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

from workers.providers.mail_server import Server

LONGEST_ANSWER = 12.0
"""Seconds that a server may take to answer one command."""
REACHED_SECONDS = 8.0
"""Seconds for each of its addresses to be reached, and for the greeting, which Postfix holds back for six."""
_MAILS = 100
"""Mails of one connection: many servers take no more."""
_IDLE = 30.0
"""Seconds without a mail after which a connection is not used again."""
_ASKED = 5.0
"""Seconds without a mail after which the server is asked whether it is still there."""
_DOT = re.compile(rb"(?m)^\.")
_own = threading.local()
T = TypeVar("T")


class Reply(NamedTuple):
    """The answer that decided about a mail, and what it answered: mail, rcpt, data, or the message's end."""

    stage: str
    code: int
    said: str


class Broken(Exception):
    """The connection cannot be used. `stage`: as in Reply, or connect; at "end" the server may have the mail.
    `reason`: unreachable, timeout, connection_lost, refused, tls, auth, busy or protocol."""

    def __init__(self, stage: str, reason: str, said: str = "") -> None:
        self.stage = stage
        self.reason = reason
        self.said = said
        super().__init__(f"{stage}: {reason}")


def connection(server: Server, name: str, until: float) -> "Connection":
    """This thread's connection, or a new one. `name`: what we call ourselves; `until`: on the monotonic clock,
    when nobody waits any more. Raises Broken."""
    kept: Connection | None = getattr(_own, "connection", None)
    if kept and kept.is_good(server, until):
        return kept
    hang_up()
    made = _own.connection = Connection(server, name, until)
    return made


def hang_up() -> None:
    """Ends this thread's connection, if there is one."""
    kept: Connection | None = getattr(_own, "connection", None)
    _own.connection = None
    if kept:
        kept.quit()


class Connection:
    """Connected, encrypted as the server's URL asks for, and signed in. `mails`: how many it was asked to send."""

    def __init__(self, server: Server, name: str, until: float) -> None:
        self.server = server
        self.mails = 0
        self._used = time.monotonic()
        self._open = True
        self._smtp = _dial(server, name, until)

    def is_good(self, server: Server, until: float) -> bool:
        idle = time.monotonic() - self._used
        if not self._open or self.server != server or self.mails >= _MAILS or idle > _IDLE:
            return False
        if idle > _ASKED:
            try:
                _allow(self._smtp, until)
                return self._smtp.noop()[0] == 250
            except OSError:
                self.close()
                return False
        return True

    def supports(self, extension: str) -> bool:
        return self._smtp.has_extn(extension)

    def send(
        self,
        sender: str,
        recipient: str,
        message: bytes,
        *,
        utf8: bool,
        until: float,
        meanwhile: Callable[[], None],
    ) -> Reply:
        """One mail to one recipient. `meanwhile` is called while the server looks at the message, and does not
        raise. Raises Broken. The connection stays good after a Reply, but for one that says it ends.

        A server that allows it is told sender, recipient and DATA at once (RFC 2920): two round trips for four."""
        options = f" SIZE={len(message)}" if self.supports("size") else ""
        if utf8:
            options += " SMTPUTF8 BODY=8BITMIME"
        self.mails += 1
        at_once = self.supports("pipelining")
        lines = [f"MAIL FROM:<{sender}>{options}\r\n", f"RCPT TO:<{recipient}>\r\n", "DATA\r\n"]
        refusal: Reply | None = None
        for stage, expected in (("mail", 2), ("rcpt", 2), ("data", 3)):
            if lines:
                said = "".join(lines) if at_once else lines[0]
                lines = [] if at_once else lines[1:]
                self._do(stage, until, partial(self._smtp.send, said.encode()))
            reply = self._reply(stage, until, expected)
            refusal = refusal or (reply if reply.code >= 400 else None)
            if refusal and (refusal.code == 421 or not at_once):
                break
        else:
            if refusal and reply.code == 354:  # it waits for a message that goes to nobody
                self._do("data", until, partial(self._smtp.send, b".\r\n"))
                self._do("data", until, self._smtp.getreply)
        if refusal is None:
            self._do("end", until, partial(self._smtp.send, _DOT.sub(b"..", message) + b".\r\n"))
            meanwhile()
            reply = self._reply("end", until, 2)
        self._used = time.monotonic()
        decided = refusal or reply
        if decided.code == 421:
            self.close()
        elif decided.stage in ("rcpt", "data"):
            self._forget(until)
        return decided

    def quit(self) -> None:
        if self._open:
            with suppress(OSError):
                _allow(self._smtp, time.monotonic() + 1)
                self._smtp.quit()
        self.close()

    def close(self) -> None:
        self._open = False
        with suppress(OSError):
            self._smtp.close()

    def _reply(self, stage: str, until: float, expected: int) -> Reply:
        """The answer to a command; `expected` is the first digit of a yes."""
        code, said = self._do(stage, until, self._smtp.getreply)
        reply = Reply(stage, code, text(said))
        if code // 100 not in (expected, 4, 5):
            self.close()
            raise Broken(stage, "protocol", f"{code} {reply.said}")
        return reply

    def _do(self, stage: str, until: float, work: Callable[[], T]) -> T:
        try:
            _allow(self._smtp, until)
            return work()
        except OSError as error:
            self.close()
            raise _broken(stage, error) from None

    def _forget(self, until: float) -> None:
        """Ends a transaction that was refused half way."""
        try:
            _allow(self._smtp, until)
            if self._smtp.rset()[0] != 250:
                self.close()
        except OSError:
            self.close()


def text(said: bytes | str) -> str:
    """A server's words on one line."""
    words = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    line = " ".join(words.split())
    return line if line.isprintable() else "".join(c if c.isprintable() else " " for c in line)


def _dial(server: Server, name: str, until: float) -> smtplib.SMTP:
    smtp: smtplib.SMTP | None = None
    try:
        limit = min(_limit(until), REACHED_SECONDS)
        if server.tls == "always":
            context = ssl.create_default_context()
            smtp = smtplib.SMTP_SSL(server.host, server.port, name, timeout=limit, context=context)
        else:
            smtp = smtplib.SMTP(server.host, server.port, name, timeout=limit)
        _allow(smtp, until)
        smtp.ehlo_or_helo_if_needed()
        if server.tls == "required" or (server.tls == "offered" and smtp.has_extn("starttls")):
            start = partial(smtp.starttls, context=ssl.create_default_context())
            _allow(smtp, until)
            _agree("tls", "the server offers no STARTTLS", start)
            smtp.ehlo_or_helo_if_needed()
        if server.user:
            _allow(smtp, until)
            _agree("auth", "the server offers no AUTH", partial(smtp.login, server.user, server.password))
    except (OSError, Broken) as error:
        if smtp:
            smtp.close()
        raise _broken("connect", error) from None
    return smtp


def _agree(reason: str, missing: str, command: Callable[[], object]) -> None:
    """Starts TLS or signs in. `missing`: what it means that the server cannot."""
    try:
        command()
    except smtplib.SMTPServerDisconnected:
        raise
    except smtplib.SMTPNotSupportedError:
        raise Broken("connect", reason, missing) from None
    except smtplib.SMTPException as error:
        raise Broken("connect", reason, _said(error)) from None


def _broken(stage: str, error: Exception) -> Broken:
    """An error of the socket or of smtplib. smtplib hides a timeout behind a lost connection."""
    match error:
        case Broken():
            return error
        case TimeoutError() | OSError(__context__=TimeoutError()):
            return Broken(stage, "timeout")
        case smtplib.SMTPServerDisconnected():
            return Broken(stage, "connection_lost")
        case smtplib.SMTPResponseException(smtp_code=code) if 400 <= code < 500:
            return Broken(stage, "busy", _said(error))
        case smtplib.SMTPException():
            return Broken(stage, "refused", _said(error))
        case ssl.SSLError():
            return Broken(stage, "tls", text(str(error)))
        case _:
            return Broken(stage, "unreachable", text(getattr(error, "strerror", None) or type(error).__name__))


def _said(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {text(error.smtp_error)}"
    return text(str(error))


def _limit(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(left, LONGEST_ANSWER)


def _allow(smtp: smtplib.SMTP, until: float) -> None:
    if smtp.sock is None:
        raise smtplib.SMTPServerDisconnected
    smtp.sock.settimeout(_limit(until))
