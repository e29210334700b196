"""Devices: the addresses of mobile and web push. Two doors lead here, the API's and the gateway's.

An address belongs to one user, the last who proved it: a phone or browser that changes hands goes to whoever
signs in there, as a new device, so that nothing already on its way to the one before arrives. An application
registers at each start, which keeps its address fresh; FCM itself forgets a token after 270 days without use.
"""

import base64
import binascii
import re
from typing import Any, Literal

import msgspec
from psycopg.types.json import Jsonb

from pipelines import endpoints
from schema.errors import FieldError
from schema.fields import field_errors

MOST = 50
"""Devices a user may have. One more takes the place of the one not heard of for longest: the phone in the hand
always works, and the other is back with its application's next start."""
STALE_DAYS = 270
LONGEST = 2048
"""Characters of an address; PostgreSQL's unique index holds few more. FCM's tokens have about 200."""
ROUND = 1000
"""Devices removed at once."""

Kind = Literal["fcm_token", "fcm_installation", "web_push"]

REGISTER = """
WITH person AS (INSERT INTO users (id) VALUES (%(user)s) ON CONFLICT DO NOTHING),
    inbox AS (INSERT INTO inboxes (user_id) VALUES (%(user)s) ON CONFLICT DO NOTHING),
    surplus AS (
        DELETE FROM devices WHERE id IN (
            SELECT id FROM devices WHERE id IN (
                SELECT id FROM devices WHERE user_id = %(user)s AND address <> %(address)s
                ORDER BY refreshed_at DESC, id OFFSET %(others)s
            ) FOR UPDATE SKIP LOCKED
        )
    )
INSERT INTO devices AS known (user_id, kind, address, keys) VALUES (%(user)s, %(kind)s, %(address)s, %(keys)s)
ON CONFLICT (address) DO UPDATE SET
    id = CASE WHEN known.user_id = excluded.user_id THEN known.id ELSE excluded.id END,
    created_at = CASE WHEN known.user_id = excluded.user_id THEN known.created_at ELSE now() END,
    user_id = excluded.user_id, kind = excluded.kind, keys = excluded.keys, refreshed_at = now()
RETURNING id, kind, created_at, refreshed_at
"""
"""With `values`. Repeating it refreshes the device and changes nothing else."""
LIST = """
SELECT id, kind, created_at, refreshed_at, right(address, 6) FROM devices
WHERE user_id = %s ORDER BY refreshed_at DESC, id
"""
REMOVE = "DELETE FROM devices WHERE id = %s AND user_id = %s"
_STALE = """
DELETE FROM devices WHERE id IN (
    SELECT id FROM devices WHERE refreshed_at < now() - make_interval(days => %s)
    ORDER BY refreshed_at LIMIT %s FOR UPDATE SKIP LOCKED
)
"""


class PushKeys(msgspec.Struct):
    """Of a browser's subscription (RFC 8291), as base64url: its public key, 65 bytes, and its secret, 16."""

    p256dh: str
    auth: str


class NewDevice(msgspec.Struct, forbid_unknown_fields=True):
    """`address`: an FCM registration token or installation id, or a push subscription's endpoint. `keys` are for
    web_push, and required there."""

    kind: Kind
    address: str
    keys: PushKeys | None = None


def faults(document: object, hosts: frozenset[str]) -> list[FieldError]:
    """Everything that is wrong with a document that should be a NewDevice, without repeating its address. `hosts`:
    see pipelines.endpoints.allowed."""
    wrong = field_errors(document, NewDevice)
    return wrong or list(_wrong(msgspec.convert(document, NewDevice), hosts))


def _wrong(new: NewDevice, hosts: frozenset[str]) -> list[FieldError]:
    errors = []
    if new.kind == "web_push":
        if why := endpoints.allowed(new.address, hosts):
            errors.append(FieldError("address", why))
        if new.keys is None:
            errors.append(FieldError("keys", "is required for web_push"))
        else:
            if not _is_key(new.keys.p256dh, 65, b"\x04"):
                errors.append(FieldError("keys.p256dh", "must be a P-256 public key: 65 bytes as base64url"))
            if not _is_key(new.keys.auth, 16):
                errors.append(FieldError("keys.auth", "must be 16 bytes as base64url"))
    else:
        if not re.fullmatch(rf"[!-~]{{1,{LONGEST}}}", new.address):
            why = f"must be 1 to {LONGEST:,} characters of ASCII, without spaces"
            errors.append(FieldError("address", why))
        if new.keys is not None:
            errors.append(FieldError("keys", "is for web_push only"))
    return errors


def _is_key(text: str, size: int, prefix: bytes = b"") -> bool:
    given = text.rstrip("=")
    try:
        raw = base64.b64decode(given + "=" * (-len(given) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(raw) == size and raw.startswith(prefix)


def values(user: str, new: NewDevice) -> dict[str, Any]:
    """For REGISTER."""
    keys = None if new.keys is None else Jsonb(msgspec.to_builtins(new.keys))
    return {"user": user, "kind": new.kind, "address": new.address, "keys": keys, "others": MOST - 1}


def stale_devices() -> int:
    """Removes devices that were not refreshed for STALE_DAYS; how many. At most ROUND at once; safe to repeat."""
    from workers.resources import pool

    with pool().connection() as connection:
        return connection.execute(_STALE, (STALE_DAYS, ROUND)).rowcount
