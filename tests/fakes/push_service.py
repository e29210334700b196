"""A push service (RFC 8030) and the browsers behind it, scripted."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from os import urandom
from typing import Any, NamedTuple

import http_ece
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fakes.answers import Answer, Request, Server


def base64url(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def unbase64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Browser(NamedTuple):
    """A subscription's keys (RFC 8291, section 2)."""

    private: ec.EllipticCurvePrivateKey
    secret: bytes

    @property
    def keys(self) -> dict[str, str]:
        point = self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return {"p256dh": base64url(point), "auth": base64url(self.secret)}

    def decrypted(self, body: bytes) -> dict[str, Any]:
        plain = http_ece.decrypt(body, private_key=self.private, auth_secret=self.secret, version="aes128gcm")
        return dict(json.loads(plain))


def browser() -> Browser:
    return Browser(ec.generate_private_key(ec.SECP256R1()), urandom(16))


class FakePushService(Server):
    """`script(id, nth)` is what the nth request for /push/id is answered; None: it is taken. A signature that does
    not hold is answered 403."""

    def __init__(self, script: Callable[[str, int], Answer | None] = lambda *_: None) -> None:
        super().__init__()
        self.script = script
        self.posts: dict[str, int] = {}
        self.taken: list[tuple[str, Request]] = []
        self.claims: list[dict[str, Any]] = []

    def endpoint(self, id: str) -> str:
        return f"{self.url}/push/{id}"

    def answer(self, request: Request) -> Answer:
        id = request.path.rpartition("/")[2]
        with self.lock:
            self.posts[id] = nth = self.posts.get(id, 0) + 1
        try:
            claims = self.verified(request.headers["authorization"])
        except (jwt.InvalidTokenError, KeyError, ValueError) as wrong:
            return Answer(403, repr(wrong).encode())
        if scripted := self.script(id, nth):
            return scripted
        with self.lock:
            self.claims.append(claims)
            self.taken.append((id, request))
        return Answer(201, headers=(("location", f"{self.url}/message/{len(self.taken)}"),))

    def verified(self, header: str) -> dict[str, Any]:
        """The claims of a VAPID header (RFC 8292), checked by PyJWT with the key that came along."""
        scheme, _, rest = header.partition(" ")
        assert scheme == "vapid"
        parts = dict(part.strip().split("=", 1) for part in rest.split(","))
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), unbase64(parts["k"]))
        required = {"require": ["aud", "exp", "sub"]}
        claims = jwt.decode(parts["t"], key, algorithms=["ES256"], audience=self.url, options=required)
        return claims | {"k": parts["k"]}
