"""How a push service learns who sends: a signature with our VAPID key (RFC 8292).

Imported with the first batch, since py-vapid comes with the extra `push`.
"""

import threading
import time
from functools import lru_cache

from py_vapid import Vapid, VapidException  # type: ignore[import-untyped]

from schema.errors import TocsinError
from workers import vapid
from workers.settings import settings

SECONDS = 12 * 3600
"""How long a signature holds, of which RFC 8292 allows 24 hours. Each push service gets a new one every hour."""

_lock = threading.Lock()


def authorization(origin: str) -> str:
    """The header for a push service, the same for all that it gets in an hour. Raises TocsinError when our key or
    subject is none."""
    with _lock:  # else the threads of a batch sign all at once
        return _signed(origin, int(time.time()) // 3600)


def forget() -> None:
    """The next signature reads the settings anew."""
    with _lock:
        _signed.cache_clear()


@lru_cache(maxsize=64)
def _signed(origin: str, _hour: int) -> str:
    claims = {"aud": origin, "sub": settings().vapid_subject, "exp": int(time.time()) + SECONDS}
    key = Vapid(vapid.private_key(settings().vapid_private_key.get_secret_value()))
    try:
        return str(key.sign(claims)["Authorization"])
    except VapidException:
        raise TocsinError("TOCSIN_VAPID_SUBJECT must be mailto:you@example.com or https://example.com") from None
