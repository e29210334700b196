"""The signature of a mail (DKIM, RFC 6376), when TOCSIN_DKIM asks for one."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from schema.errors import TocsinError

_SIGNED = (
    b"from",
    b"from",  # once more than there is: a second one, which a reader might see instead, breaks the signature
    b"to",
    b"subject",
    b"date",
    b"message-id",
    b"list-unsubscribe",
    b"list-unsubscribe-post",  # RFC 8058 wants both signed
)


class Signer(NamedTuple):
    """Whose signature, and the name below which DNS has the public key."""

    domain: bytes
    selector: bytes
    key: bytes


def parse(dkim: str) -> tuple[str, str, Path]:
    """TOCSIN_DKIM: domain, selector, the key's file. Raises TocsinError."""
    domain, _, rest = dkim.partition(":")
    selector, _, path = rest.partition(":")
    if not (domain and selector and path and f"{domain}{selector}".isascii()):
        raise TocsinError("TOCSIN_DKIM: must be domain:selector:/path/to/private.pem")
    return domain, selector, Path(path)


def sign(message: bytes, dkim: str) -> bytes:
    """The message with its signature in front. Takes about 7 ms. Raises TocsinError for a setting that cannot
    work."""
    import dkim as library

    signer = _signer(dkim)
    relaxed = (b"relaxed", b"relaxed")
    header: bytes = library.sign(
        message, signer.selector, signer.domain, signer.key, canonicalize=relaxed, include_headers=list(_SIGNED)
    )
    return header + message


@lru_cache
def _signer(dkim: str) -> Signer:
    """Tries the key once. A failure is not remembered, so that a file may still come."""
    import dkim as library

    domain, selector, path = parse(dkim)
    try:
        signer = Signer(domain.encode(), selector.encode(), path.read_bytes().replace(b"\r\n", b"\n"))
        library.sign(b"From: a@b\r\n\r\n", signer.selector, signer.domain, signer.key, include_headers=[b"from"])
    except OSError as error:
        raise TocsinError(f"TOCSIN_DKIM: {path} cannot be read: {error.strerror}") from None
    except (library.DKIMException, ValueError, ArithmeticError):
        raise TocsinError(f"TOCSIN_DKIM: {path} holds no private RSA key in PEM") from None
    return signer
