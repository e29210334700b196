"""Signing in: who is signed in, tickets for streams, and in development a token for whoever asks."""

import time
from datetime import UTC, datetime
from typing import Annotated

import jwt
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from workers.gateway.auth import COOKIE, TICKET_SECONDS, Auth, Identity
from workers.gateway.body import read_body
from workers.gateway.refusal import Refused, answer
from workers.settings import Settings

TOKEN_SECONDS = 3600


class Wish(msgspec.Struct):
    """Who to be, in development."""

    user: Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern="^[^\\x00]*$")]


class Session:
    def __init__(self, settings: Settings, auth: Auth) -> None:
        self._settings, self._auth = settings, auth

    async def get(self, request: Request) -> Response:
        """Who is signed in. In development the answer says so, also when it is "nobody": the page may sign in; and
        it says where the API is, for the page's example."""
        extra: dict[str, object] = {}
        if self._settings.development:
            extra = {"development": True, "api": f"http://{self._settings.host}:{self._settings.api_port}"}
        try:
            return answer(_signed_in(self._auth.reader(request)) | extra)
        except Refused as error:
            raise Refused(error.status, error.detail, headers=error.headers, extra=extra) from None

    async def ticket(self, request: Request) -> Response:
        ticket = await self._auth.issue_ticket(self._auth.changer(request))
        return answer({"ticket": ticket, "expiresIn": TICKET_SECONDS})

    async def development_token(self, request: Request) -> Response:
        """The route exists in development only: it makes anybody anybody."""
        self._auth.check_origin(request.headers, by_cookie=False)
        wish = await read_body(request, Wish)
        identity = Identity(wish.user, int(time.time()) + TOKEN_SECONDS)
        claims = {"sub": identity.user, "aud": self._settings.jwt_audience, "exp": int(identity.expires)}
        token = jwt.encode(claims, self._settings.jwt_secret.get_secret_value(), algorithm="HS256")
        response = answer(_signed_in(identity))
        response.set_cookie(COOKIE, token, max_age=TOKEN_SECONDS, path="/", httponly=True, samesite="lax")
        return response


def _signed_in(identity: Identity) -> dict[str, object]:
    return {"user": identity.user, "expiresAt": datetime.fromtimestamp(identity.expires, UTC)}
