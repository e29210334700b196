"""A push service, as far as a sender meets one: RFC 8030 with the phone always online, VAPID (RFC 8292), and what
a browser does with the message (RFC 8291)."""

import re
import secrets
from datetime import UTC, datetime
from typing import Any

import http_ece  # type: ignore[import-untyped]
import jwt
import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from workers.local.phone import App, Notice, Phone, Subscription, unbase64

LARGEST = 4096
"""Bytes of a body that every push service takes (RFC 8030, 7.2)."""
_VAPID = re.compile(r"vapid\s+(?=.*\bt=(?P<t>[\w.-]+))(?=.*\bk=(?P<k>[\w-]+))", re.IGNORECASE)
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
_URGENCY = ("very-low", "low", "normal", "high")


class _Refused(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class PushService:
    """Delivers to the browser of `phone`. Its endpoints begin with `url`, the origin that a VAPID token is for."""

    def __init__(self, phone: Phone, url: str) -> None:
        self._phone, self._url = phone, url

    def routes(self) -> list[Route]:
        return [Route("/push/{id}", self._push, methods=["POST"])]

    async def _push(self, request: Request) -> Response:
        try:
            self._check_sender(request)
            subscription = self._subscription(request.path_params["id"])
            body = await request.body()
            self._check_message(request, body)
            id = secrets.token_urlsafe(16)
            self._show(id, _decrypted(body, subscription))
        except _Refused as refused:
            return PlainTextResponse(f"{refused.detail}\n", refused.status)
        location = {"location": f"{self._url}/push-message/{id}", "ttl": request.headers["ttl"]}
        return Response(status_code=201, headers=location)

    def _check_sender(self, request: Request) -> None:
        """Whoever signs with any key may send: which one the browser subscribed with is not known here."""
        said = _VAPID.match(request.headers.get("authorization", ""))
        if not said:
            raise _Refused(401, "send `Authorization: vapid t=…, k=…` (RFC 8292)")
        try:
            key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), unbase64(said["k"]))
            jwt.decode(
                said["t"], key, algorithms=["ES256"], audience=self._url, options={"require": ["exp", "aud"]}
            )
        except (jwt.InvalidTokenError, ValueError) as error:
            raise _Refused(403, f"the VAPID token does not hold: {error}") from None

    def _subscription(self, id: str) -> Subscription:
        if self._phone.is_gone(id):
            raise _Refused(410, "this subscription has ended")
        found = self._phone.subscription
        if not found or found.id != id:
            raise _Refused(404, "there is no such subscription")
        return found

    def _check_message(self, request: Request, body: bytes) -> None:
        headers = request.headers
        if not headers.get("ttl", "").isdecimal():
            raise _Refused(400, "the header TTL must say how many seconds to keep it (RFC 8030, 5.2)")
        if headers.get("urgency", "normal") not in _URGENCY:
            raise _Refused(400, f"the header Urgency must be one of {', '.join(_URGENCY)}")
        if not _TOPIC.fullmatch(headers.get("topic", "t")):
            raise _Refused(400, "the header Topic must be 1 to 32 characters of base64url (RFC 8030, 5.4)")
        if headers.get("content-encoding") != "aes128gcm":
            raise _Refused(415, "the body must be encrypted with Content-Encoding aes128gcm (RFC 8291)")
        if len(body) > LARGEST:
            raise _Refused(413, f"the body is larger than {LARGEST} bytes")

    def _show(self, id: str, payload: bytes) -> None:
        """As workers/gateway/static/service-worker.js does."""
        try:
            message = msgspec.json.decode(payload, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            message = {}
        title = str(message.get("title") or "New notification")
        self._phone.arrived(App.BROWSER, id, title, message or payload.decode(errors="replace"))
        tag, badge, replaces = message.get("tag"), message.get("badge"), message.get("replaces")
        if isinstance(replaces, list):
            self._phone.withdraw(App.BROWSER, {str(one) for one in replaces} - {tag})
        notice = Notice(
            id=id,
            app=App.BROWSER,
            at=datetime.now(UTC),
            title=title,
            body=str(message.get("body") or ""),
            url=str(message["url"]) if message.get("url") else None,
            tag=str(tag) if tag else None,
        )
        self._phone.show(notice, badge if isinstance(badge, int) else None)


def _decrypted(body: bytes, subscription: Subscription) -> bytes:
    try:
        plain: bytes = http_ece.decrypt(
            body, private_key=subscription.key, auth_secret=unbase64(subscription.auth), version="aes128gcm"
        )
    except (http_ece.ECEException, InvalidTag, ValueError, IndexError) as error:
        raise _Refused(400, f"the body cannot be decrypted with this subscription's keys: {error!r}") from None
    return plain
