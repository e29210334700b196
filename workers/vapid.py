"""The key pair of web push (VAPID, RFC 8292): P-256, as base64url without padding, the way browsers and pywebpush
take it. Importing this raises TocsinError where the extra `push` is not installed: import it when it is needed."""

import base64
import binascii

from schema.errors import TocsinError

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
except ImportError:
    raise TocsinError("web push needs its libraries: pip install -e '.[push]'") from None


def generate() -> tuple[str, str]:
    """A new (private, public) key."""
    private = ec.generate_private_key(ec.SECP256R1())
    return _text(private.private_numbers().private_value.to_bytes(32)), _public(private)


def public_key(private: str) -> str:
    """What browsers subscribe with, as `applicationServerKey`. Raises TocsinError for what is no private key."""
    return _public(private_key(private))


def private_key(text: str) -> ec.EllipticCurvePrivateKey:
    """From 32 bytes as base64url, or from PEM, in which a line's end may be written \\n, as in an environment
    file. Raises TocsinError for what is neither, or on another curve."""
    text = text.strip()
    try:
        if "-----BEGIN" in text:
            key = load_pem_private_key(text.replace("\\n", "\n").encode(), None)
            if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
                return key
        else:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            if len(raw) == 32:
                return ec.derive_private_key(int.from_bytes(raw), ec.SECP256R1())
    except (binascii.Error, ValueError, TypeError, UnsupportedAlgorithm):
        pass
    raise TocsinError(
        "TOCSIN_VAPID_PRIVATE_KEY is no P-256 key: it must be 32 bytes as base64url, which `tocsin keys vapid`"
        " makes, or PEM"
    )


def _public(private: ec.EllipticCurvePrivateKey) -> str:
    point = private.public_key().public_numbers()
    return _text(b"\x04" + point.x.to_bytes(32) + point.y.to_bytes(32))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
