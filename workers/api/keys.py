"""API keys: made once, shown once, stored as a hash."""

import hashlib
import hmac
import secrets
import time
from typing import NamedTuple

from psycopg import Connection

from workers.resources import pool
from workers.settings import settings

PREFIX = "tk_"
REMEMBERED = 5.0
"""Seconds an answer is remembered: a revoked key works no longer than this."""


class Key(NamedTuple):
    id: str
    name: str
    created_at: object
    revoked_at: object


def digest(key: str) -> bytes:
    """A key is 256 random bits, so one plain SHA-256 is as good as a slow hash."""
    return hashlib.sha256(key.encode()).digest()


def create(connection: Connection, name: str) -> tuple[str, str]:
    """A new key: (id, the key itself, which is nowhere else)."""
    id_ = secrets.token_hex(4)
    key = f"{PREFIX}{id_}_{secrets.token_urlsafe(32)}"
    connection.execute("INSERT INTO api_keys (id, name, hash) VALUES (%s, %s, %s)", (id_, name, digest(key)))
    return id_, key


def revoke(connection: Connection, id_: str) -> bool:
    """Whether there was such a key; revoking twice changes nothing."""
    query = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = %s"
    return connection.execute(query, (id_,)).rowcount == 1


def all_keys(connection: Connection) -> list[Key]:
    query = "SELECT id, name, created_at, revoked_at FROM api_keys ORDER BY created_at, id"
    return [Key(*row) for row in connection.execute(query)]


_seen: dict[bytes, tuple[float, bool]] = {}


def valid(key: str) -> bool:
    """Whether the key may be used: TOCSIN_API_KEY, or one of the table that is not revoked."""
    hashed = digest(key)
    own = settings().api_key.get_secret_value()
    if own and hmac.compare_digest(hashed, digest(own)):
        return True
    at, answer = _seen.get(hashed, (0.0, False))
    if time.monotonic() - at < REMEMBERED:
        return answer
    with pool().connection(timeout=2) as connection:
        query = "SELECT 1 FROM api_keys WHERE hash = %s AND revoked_at IS NULL"
        answer = connection.execute(query, (hashed,)).fetchone() is not None
    if len(_seen) > 10_000:
        _seen.clear()
    _seen[hashed] = time.monotonic(), answer
    return answer
