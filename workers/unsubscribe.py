"""The address behind "unsubscribe" in an email (RFC 8058): whoever holds it may stop one category of one user's
emails, without signing in.

It holds the user's id and the category, signed with a key derived from TOCSIN_JWT_SECRET for this purpose alone.
It does not expire: a mail lies in a mailbox for years, and CAN-SPAM has its link work for at least 30 days. A
secret that is replaced becomes TOCSIN_PREVIOUS_SECRET, and links that it signed go on working; leave it there for
60 days.
"""

import hashlib
import secrets
from functools import lru_cache

from itsdangerous import BadData, URLSafeSerializer

from schema.errors import TocsinError
from workers.settings import settings

PURPOSE = "tocsin/unsubscribe/email"


def link(user: str, category: str) -> str:
    """Where `user` stops emails of `category`: the same address every time, and ASCII whatever the id is. Raises
    TocsinError without TOCSIN_JWT_SECRET: anybody could sign."""
    if not settings().jwt_secret.get_secret_value():
        raise TocsinError("TOCSIN_JWT_SECRET is not set, and signs the unsubscribe links of emails: set it")
    return f"{settings().gateway_url}/unsubscribe/{_serializer().dumps([user, category])}"


def read(token: str) -> tuple[str, str] | None:
    """(user, category) of a token that we signed, whichever of the secrets did; None for any other text."""
    try:
        content = _serializer().loads(token)
    except BadData:
        return None
    match content:
        case [str(user), str(category)]:
            return user, category
    return None


def _serializer() -> URLSafeSerializer:
    return _made(settings().previous_secret.get_secret_value(), settings().jwt_secret.get_secret_value())


@lru_cache(maxsize=4)
def _made(*keys: str) -> URLSafeSerializer:
    """The last key signs, each verifies. Without any there is one that nobody knows, and nothing verifies."""
    return URLSafeSerializer(
        [key for key in keys if key] or [secrets.token_hex()],
        salt=PURPOSE,
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )
