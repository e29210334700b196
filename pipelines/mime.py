"""MIME: a mail as the bytes a mail server takes (RFC 5322), in seven bits; pure.

The standard library's EmailMessage needs some 4 ms a mail, and encodes an address in List-Unsubscribe that is
longer than a line, so that nobody can unsubscribe. This writes one shape of message, which that library reads.
"""

import re
from binascii import b2a_qp
from collections.abc import Iterable
from email.header import Header

from pipelines.mail import Mail

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST = 900
"""Characters of a line; RFC 5322 ends it after 998."""


def compose(mail: Mail, headers: Iterable[tuple[str, str]], boundary: str) -> bytes:
    """The message: `headers` as they stand (name, value), then the subject, then text and HTML as alternatives.
    `boundary` may be any word: within the parts no `=_` can occur. Raises ValueError for a header that would
    become two."""
    lines = [f"{name}: {_safe(name, value)}" for name, value in headers]
    lines += [
        f"Subject: {words('Subject', mail.subject)}",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/alternative; boundary="=_{boundary}"',
    ]
    pieces = ["\r\n".join(lines).encode(), b"", _part("plain", mail.text, boundary)]
    pieces += [_part("html", mail.html, boundary), f"--=_{boundary}--\r\n".encode()]
    return b"\r\n".join(pieces)


def words(name: str, value: str) -> str:
    """A header's text: encoded (RFC 2047) where it is not ASCII, too long, or would be read as encoded. Raises
    ValueError for text with a line break or a control character."""
    _safe(name, value)
    if value.isascii() and "=?" not in value and len(value) < _LONGEST:
        return value
    return Header(value, "utf-8", header_name=name).encode(linesep="\r\n")


def _safe(name: str, value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError(f"{name} holds a line break or a control character")
    return value


def _part(kind: str, text: str, boundary: str) -> bytes:
    head = f"--=_{boundary}\nContent-Type: text/{kind}; charset=utf-8\n"
    head += "Content-Transfer-Encoding: quoted-printable\n\n"
    body = b2a_qp(text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8"), istext=True)
    return (head.encode() + body).replace(b"\n", b"\r\n")
