"""What a push says: a pure function of the parcel.

Too long, it is cut by one rule: first the event's own data go, the longest value first; then the body is cut, then
the title, each at a character's boundary and with an ellipsis; then the link goes, because a cut one leads
elsewhere. Ids, the type and the counts always stay.
"""

import json
import unicodedata
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime
from typing import Any

from schema.delivery import Parcel

FCM_BYTES = 4096
"""What FCM takes as payload. The whole message is measured, without the address: a little more than FCM counts,
which leaves room for the names that it adds for Apple's devices."""
WEB_PUSH_BYTES = 3000
"""A push service must take 4096 bytes after encryption (RFC 8030, section 7.2), which adds 103 and more."""
LONGEST_TTL = 28 * 24 * 3600
"""Seconds for which FCM keeps a message at most."""
WEB_PUSH_TTL = 24 * 3600
"""Seconds for which a push service keeps what has no end of its own."""
URGENCY = {"low": "low", "normal": "normal", "high": "high", "critical": "high"}
"""Importance, as RFC 8030 calls it (section 5.3)."""

_RESERVED = {"from", "message_type", "collapse_key", "aps"}
_OURS = {"notificationId", "type", "actionUrl", "groupId", "count", "replaces"}
_RESERVED_PREFIXES = ("google", "gcm")
_ELLIPSIS = "…"
_ZERO_WIDTH_JOINER = "\u200d"


def replaced_by(parcel: Parcel) -> str:
    """What a later push of the same thing takes the place of: the group's id, or the notification's."""
    return str(parcel.group or parcel.notification)


def ttl(parcel: Parcel, now: datetime) -> int | None:
    """Seconds for which it is still worth showing; None: it does not end."""
    if parcel.expires_at is None:
        return None
    return min(LONGEST_TTL, max(0, int((parcel.expires_at - now).total_seconds())))


def topic(parcel: Parcel) -> str:
    """22 characters of base64url (RFC 8030 takes 32): of several that wait, the push service keeps the last."""
    return urlsafe_b64encode((parcel.group or parcel.notification).bytes).rstrip(b"=").decode()


def fcm_message(parcel: Parcel, now: datetime) -> dict[str, Any]:
    """The message as FCM's HTTP v1 API has it, without `token` or `fid`; at most FCM_BYTES as JSON."""
    loud = parcel.importance in ("high", "critical")
    tag = replaced_by(parcel)
    android: dict[str, Any] = {
        "collapse_key": tag,
        "priority": "high" if loud else "normal",
        "notification": {"tag": tag, "channel_id": parcel.category},
    }
    headers = {"apns-collapse-id": tag, "apns-priority": "5" if parcel.importance == "low" else "10"}
    if (seconds := ttl(parcel, now)) is not None and parcel.expires_at:
        android["ttl"] = f"{seconds}s"
        headers["apns-expiration"] = str(int(parcel.expires_at.timestamp()))
    aps: dict[str, Any] = {"badge": parcel.unread, "thread-id": str(parcel.group or parcel.type)}
    if loud:
        aps["sound"] = "default"
    ids = {"notificationId": str(parcel.notification), "type": parcel.type}
    if parcel.group:
        ids |= {"groupId": str(parcel.group), "count": str(parcel.count)}
    if parcel.replaces:
        ids["replaces"] = ",".join(map(str, parcel.replaces))

    def build(title: str, body: str, url: str | None, extras: dict[str, str]) -> dict[str, Any]:
        return {
            "notification": {"title": title, "body": body},
            "data": extras | ids | ({"actionUrl": url} if url else {}),
            "android": android,
            "apns": {"headers": headers, "payload": {"aps": aps}},
        }

    return _fit(build, parcel, _strings(parcel.data), FCM_BYTES)


def web_push(parcel: Parcel) -> dict[str, Any]:
    """What the service worker is given; at most WEB_PUSH_BYTES as JSON. A notification that it shows has `tag`;
    those of `replaces` it takes away."""

    def build(title: str, body: str, url: str | None, _: dict[str, str]) -> dict[str, Any]:
        return {
            "title": title,
            "body": body,
            "tag": replaced_by(parcel),
            "url": url,
            "notificationId": str(parcel.notification),
            "type": parcel.type,
            "badge": parcel.unread,
            "replaces": [str(one) for one in parcel.replaces],
        }

    return _fit(build, parcel, {}, WEB_PUSH_BYTES)


def encoded(value: object) -> bytes:
    """As JSON in UTF-8, without needless characters."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _strings(data: dict[str, Any]) -> dict[str, str]:
    """FCM takes strings only, and keeps some names to itself; on Apple's devices so does `aps`. Ours are ours also
    where a message has none of them: an application trusts them."""
    named = {
        key: value
        for key, value in data.items()
        if value is not None and key not in _RESERVED | _OURS and not key.startswith(_RESERVED_PREFIXES)
    }
    return {key: value if isinstance(value, str) else encoded(value).decode() for key, value in named.items()}


_Build = Callable[[str, str, str | None, dict[str, str]], dict[str, Any]]


def _fit(build: _Build, parcel: Parcel, extras: dict[str, str], limit: int) -> dict[str, Any]:
    title, body, url = parcel.title, parcel.message, parcel.action_url

    def excess() -> int:
        return len(encoded(build(title, body, url, extras))) - limit

    for key in sorted(extras, key=lambda key: len(extras[key]), reverse=True):
        if excess() <= 0:
            break
        extras = {kept: value for kept, value in extras.items() if kept != key}
    if (over := excess()) > 0:
        body = shortened(body, over)
    if (over := excess()) > 0:
        title = shortened(title, over)
    if excess() > 0:
        url = None
    return build(title, body, url, extras)


def shortened(text: str, excess: int) -> str:
    """The text with an ellipsis, at least `excess` bytes shorter as JSON in UTF-8; empty if nothing fits."""
    room = len(encoded(text)) - excess
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if len(encoded(text[:middle] + _ELLIPSIS)) <= room:
            fits = middle
        else:
            too_long = middle
    while fits and _torn(text, fits):
        fits -= 1
    kept = text[:fits].rstrip()
    return kept + _ELLIPSIS if kept else ""


def _torn(text: str, at: int) -> bool:
    """Whether a cut before text[at] parts what is seen as one character (after UAX #29): accents, variants,
    joined emoji, skin tones, flags."""
    before, char = text[at - 1], text[at]
    if _ZERO_WIDTH_JOINER in (before, char) or unicodedata.category(char) in ("Mn", "Mc", "Me"):
        return True
    if "\U0001f3fb" <= char <= "\U0001f3ff" or "\U000e0020" <= char <= "\U000e007f":
        return True
    if not _regional(char):
        return False
    begin = at
    while begin and _regional(text[begin - 1]):
        begin -= 1
    return (at - begin) % 2 == 1


def _regional(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
