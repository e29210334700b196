"""FCM's HTTP v1 API and the OAuth token endpoint before it, as far as a sender meets them: firebase.google.com,
`projects.messages.send` and `ErrorCode`; RFC 7523 for the token."""

import json
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from schema.errors import TocsinError
from workers.local.phone import App, Notice, Phone

LIFETIME = 3600
"""Seconds an access token lives."""
LARGEST = 4096
"""Bytes of a message, as FCM limits it."""
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_GOOGLE = "https://oauth2.googleapis.com/token"
"""For whom google-auth makes out every assertion, whatever `token_uri` says."""
_TARGETS = ("token", "fid")
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


class _Refused(Exception):
    """An answer other than 200; `code` is FCM's own word beside the status."""

    def __init__(self, http: int, status: str, message: str, code: str = "") -> None:
        super().__init__(message)
        self.http, self.status, self.message, self.code = http, status, message, code

    def answer(self) -> Response:
        error: dict[str, Any] = {"code": self.http, "message": self.message, "status": self.status}
        if self.code:
            error["details"] = [{"@type": _FCM_ERROR, "errorCode": self.code}]
        return JSONResponse({"error": error}, self.http)


class Fcm:
    """Delivers to `phone` what is sent with the service account in the file `account`. Raises TocsinError when
    that cannot be read."""

    def __init__(self, phone: Phone, account: Path) -> None:
        self._phone = phone
        try:
            known = json.loads(account.read_bytes())
            private = cast(rsa.RSAPrivateKey, load_pem_private_key(known["private_key"].encode(), None))
            self._project, self._issuer = str(known["project_id"]), str(known["client_email"])
            self._uri = str(known["token_uri"])
        except (OSError, ValueError, KeyError, TypeError):
            raise TocsinError(f"{account} cannot be read: remove it, and `tocsin up` makes another") from None
        self._key = private.public_key()
        self._issued: dict[str, float] = {}

    def routes(self) -> list[Route]:
        return [
            Route("/token", self._token, methods=["POST"]),
            Route("/v1/projects/{project}/messages:send", self._send, methods=["POST"]),
        ]

    async def _token(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        if form.get("grant_type") != _GRANT:
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        try:
            jwt.decode(
                form.get("assertion", ""),
                self._key,
                algorithms=["RS256"],
                audience=[_GOOGLE, self._uri],
                issuer=self._issuer,
                options={"require": ["exp", "iat", "iss", "aud"]},
            )
        except jwt.InvalidTokenError as error:
            return JSONResponse({"error": "invalid_grant", "error_description": str(error)}, 400)
        now = time.time()
        self._issued = {token: end for token, end in self._issued.items() if end > now}
        token = f"ya29.local-{secrets.token_urlsafe(32)}"
        self._issued[token] = now + LIFETIME
        return JSONResponse({"access_token": token, "expires_in": LIFETIME - 1, "token_type": "Bearer"})

    async def _send(self, request: Request) -> Response:
        try:
            self._authenticate(request)
            name = self._deliver(await request.body())
        except _Refused as refused:
            return refused.answer()
        return JSONResponse({"name": name})

    def _authenticate(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or self._issued.get(token, 0) < time.time():
            raise _Refused(
                401,
                "UNAUTHENTICATED",
                "Request had invalid authentication credentials. Expected OAuth 2 access token.",
            )
        if request.path_params["project"] != self._project:
            raise _Refused(403, "PERMISSION_DENIED", f"Permission denied on project {self._project}")

    def _deliver(self, body: bytes) -> str:
        """Shows a message, and answers its name. Raises _Refused."""
        try:
            document = msgspec.json.decode(body, type=dict[str, Any])
            message = msgspec.convert(document.get("message"), dict[str, Any])
            data = msgspec.convert(message.get("data", {}), dict[str, str])
        except msgspec.MsgspecError as error:
            raise _invalid(f"Invalid JSON payload received. {error}") from None
        targets = [str(message[name]) for name in _TARGETS if message.get(name)]
        if len(targets) != 1:
            raise _invalid("Recipient of the message is not set.")
        if len(msgspec.json.encode({k: v for k, v in message.items() if k not in _TARGETS})) > LARGEST:
            raise _invalid(f"Message is too big: the payload is limited to {LARGEST} bytes.")
        if self._phone.is_gone(targets[0]):
            raise _Refused(404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED")
        id = f"projects/{self._project}/messages/0:{time.time_ns() // 1000}%{secrets.token_hex(8)}"
        if document.get("validate_only") or document.get("validateOnly"):
            return id
        android, apns = _of(message, "android"), _of(message, "apns")
        shown, aps = _of(android, "notification"), _of(_of(apns, "payload"), "aps")
        said = _of(message, "notification") | {k: v for k, v in shown.items() if k in ("title", "body")}
        title = str(said.get("title", ""))
        self._phone.arrived(App.APPLICATION, id, title or "data only", message)
        if not said:  # for the application's own code, which shows nothing
            return id
        tag = shown.get("tag") or _of(apns, "headers").get("apns-collapse-id") or _either(android, "collapse_key")
        badge = aps.get("badge", _either(shown, "notification_count"))
        replaced = set(data.get("replaces", "").split(","))
        self._phone.withdraw(App.APPLICATION, replaced - {tag, ""})
        notice = Notice(
            id=id,
            app=App.APPLICATION,
            at=datetime.now(UTC),
            title=title,
            body=str(said.get("body", "")),
            url=data.get("actionUrl"),
            tag=str(tag) if tag else None,
            stranger=targets[0] != self._phone.token,
        )
        self._phone.show(notice, badge if isinstance(badge, int) else None)
        return id


def _invalid(message: str) -> _Refused:
    return _Refused(400, "INVALID_ARGUMENT", message, "INVALID_ARGUMENT")


def _of(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A member that is an object; empty when there is none."""
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _either(document: dict[str, Any], name: str) -> Any:
    """Google's JSON takes a member by its name, like_this, and by its JSON name, likeThis."""
    first, *others = name.split("_")
    return document.get(name, document.get(first + "".join(other.title() for other in others)))
