"""The mail server, as TOCSIN_SMTP_URL names it."""

from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from schema.errors import TocsinError

_SCHEMES: dict[str, tuple[int, Literal["offered", "required", "always"]]] = {
    "smtp": (25, "offered"),
    "smtp+starttls": (587, "required"),
    "smtps": (465, "always"),
}
_URL = "smtp://, smtp+starttls:// or smtps://, then user:password@host:port"


class Server(NamedTuple):
    """Where mail goes. `tls`: when the server offers STARTTLS, or it must, or from the first byte."""

    host: str
    port: int
    tls: Literal["offered", "required", "always"]
    user: str
    password: str


def parse(url: str) -> Server:
    """Raises TocsinError, which does not repeat the URL: it holds a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise TocsinError(f"TOCSIN_SMTP_URL: the host or the port is wrong: it is {_URL}") from None
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise TocsinError(f"TOCSIN_SMTP_URL: must be {_URL}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise TocsinError("TOCSIN_SMTP_URL: / ? # in a user or password are written %2F %3F %23, and @ is %40")
    if not host:
        raise TocsinError(f"TOCSIN_SMTP_URL: names no host: it is {_URL}")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not (user + password).isascii() or not (user + password).isprintable():
        raise TocsinError("TOCSIN_SMTP_URL: user and password can hold nothing but ASCII")
    usual, tls = _SCHEMES[parts.scheme]
    return Server(host, port or usual, tls, user, password)
