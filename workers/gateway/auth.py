"""Who is asking: the embedding application's token, and whether a browser may send it from where it is.

A token is a JWT (RFC 7519), signed with HS256 and TOCSIN_JWT_SECRET, whose `sub` is the user. `exp` and `aud` are
required and no other algorithm is read. It comes as `Authorization: Bearer`, in the cookie `tocsin_token`, in
Socket.IO's `auth.token`; or it is exchanged for a ticket, because EventSource cannot send headers: single use, 30
seconds, kept in Redis as a hash.

A cookie is sent by a browser whoever's page asks for it. So handshakes and changes look at Origin: a page that is
not listed is refused; without Origin a cookie counts only when the browser itself says `Sec-Fetch-Site:
same-origin` (browsers leave Origin out of a GET to their own origin). See OWASP ASVS 4.4.2.
"""

import hashlib
import secrets
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jwt
import msgspec
from redis.asyncio import Redis
from starlette.requests import HTTPConnection

from workers import log
from workers.gateway.refusal import Refused
from workers.settings import Settings

COOKIE = "tocsin_token"
TICKET_SECONDS = 30
MAX_USER = 128

_WHY: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "the token has expired"),
    (jwt.MissingRequiredClaimError, "exp, sub and aud are required"),
    (jwt.InvalidAudienceError, "the token is for another audience"),
    (jwt.ImmatureSignatureError, "the token is not valid yet"),
    (jwt.InvalidSignatureError, "the signature does not fit"),
    (jwt.InvalidAlgorithmError, "the algorithm is not HS256"),
)


class Identity(msgspec.Struct, frozen=True):
    """A signed-in user, until `expires` (seconds since 1970)."""

    user: str
    expires: float


class Credential(NamedTuple):
    token: str
    by_cookie: bool


def unauthorized(why: str) -> Refused:
    return Refused(401, why, headers={"www-authenticate": 'Bearer realm="tocsin"'})


def credential(connection: HTTPConnection) -> Credential:
    """The token of a request; raises Refused when there is none."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer":
            raise unauthorized("Authorization is not Bearer")
        return Credential(token.strip(), by_cookie=False)
    if cookie := connection.cookies.get(COOKIE):
        return Credential(cookie, by_cookie=True)
    raise unauthorized("no token: sign in")


class Auth:
    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._secret = settings.jwt_secret.get_secret_value()
        self._audience, self._origins, self._redis = settings.jwt_audience, settings.origins, redis

    def reader(self, connection: HTTPConnection) -> Identity:
        """Who reads. Raises Refused."""
        self._configured()
        return self.verify(credential(connection).token)

    def changer(self, connection: HTTPConnection) -> Identity:
        """Who changes something, from a page that may. Raises Refused."""
        self._configured()
        given = credential(connection)
        self.check_origin(connection.headers, given.by_cookie)
        return self.verify(given.token)

    async def handshake(self, connection: HTTPConnection) -> Identity:
        """Who opens a stream; a ticket may take the place of the token. Raises Refused."""
        ticket = connection.query_params.get("ticket")
        if ticket is None:
            return self.changer(connection)
        self._configured()
        self.check_origin(connection.headers, by_cookie=False)
        return await self.redeem(ticket)

    def socket(self, connection: HTTPConnection, given: object) -> Identity:
        """Who opens a socket: `given` is Socket.IO's auth. Raises Refused."""
        token = given.get("token") if isinstance(given, dict) else None
        if token is None:
            return self.changer(connection)
        self._configured()
        self.check_origin(connection.headers, by_cookie=False)
        return self.verify(token if isinstance(token, str) else "")

    def check_origin(self, headers: Mapping[str, str], by_cookie: bool) -> None:
        origin = headers.get("origin")
        if origin is None:
            allowed = not by_cookie or headers.get("sec-fetch-site") == "same-origin"
        else:
            allowed = origin in self._origins
        if not allowed:
            log.logger().warning("origin_refused", origin=(origin or "")[:200])
            raise Refused(403, "this page's origin is not among TOCSIN_ALLOWED_ORIGINS")

    def verify(self, token: str) -> Identity:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                audience=self._audience,
                leeway=0,
                # When it was issued is not ours to judge, and another host's clock may be ahead.
                options={"require": ["exp", "sub", "aud"], "verify_iat": False},
            )
        except jwt.PyJWTError as error:
            why = next((text for kind, text in _WHY if isinstance(error, kind)), "this is no token")
            raise unauthorized(why) from None
        user = claims["sub"]
        if not user or len(user) > MAX_USER or "\0" in user:
            raise unauthorized(f"sub is empty or longer than {MAX_USER} characters")
        return Identity(user, float(claims["exp"]))

    async def issue_ticket(self, identity: Identity) -> str:
        ticket = secrets.token_urlsafe(32)
        await self._redis.set(_key(ticket), msgspec.json.encode(identity), ex=TICKET_SECONDS)
        return ticket

    async def redeem(self, ticket: str) -> Identity:
        """Once: the second time it is unknown. Raises Refused."""
        kept = await self._redis.getdel(_key(ticket))
        if kept is None:
            raise unauthorized("the ticket is unknown, used or expired")
        identity = msgspec.json.decode(kept, type=Identity)
        if identity.expires <= time.time():
            raise unauthorized("the token has expired")
        return identity

    def _configured(self) -> None:
        if not self._secret:
            raise Refused(503, "nobody can sign in: TOCSIN_JWT_SECRET is not set")


def _key(ticket: str) -> str:
    return f"tocsin:ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"
