"""FCM's HTTP v1 API and Google's token endpoint, scripted."""

import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fakes.answers import Answer, Request, Server

PROJECT = "tocsin-test"
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
QUOTA_FAILURE = "type.googleapis.com/google.rpc.QuotaFailure"
AUDIENCE = "https://oauth2.googleapis.com/token"
"""For whom google-auth signs its assertion, whatever the account's token_uri is."""
HTML = b"<!DOCTYPE html><html><title>Error 502 (Server Error)!!1</title>"


def error(
    status: int, name: str, message: str = "", code: str = "", *details: dict[str, Any], retry_after: str = ""
) -> Answer:
    """An error as Google's APIs give it; `code` is FCM's own."""
    told = [{"@type": FCM_ERROR, "errorCode": code}] if code else []
    body = {"error": {"code": status, "message": message, "status": name, "details": [*told, *details]}}
    headers = (("content-type", "application/json; charset=UTF-8"),)
    if retry_after:
        headers += (("retry-after", retry_after),)
    return Answer(status, json.dumps(body).encode(), headers)


@cache
def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


class FakeFcm(Server):
    """`script(address, nth)` is what the nth request for an address (from 1) is answered; None: it is taken.
    `token_script(nth)` likewise for access tokens. `taken`: (address, message) in the order of arrival."""

    def __init__(
        self,
        script: Callable[[str, int], Answer | None] = lambda *_: None,
        token_script: Callable[[int], Answer | None] = lambda _: None,
    ) -> None:
        super().__init__()
        self.script, self.token_script = script, token_script
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.posts: dict[str, int] = {}
        self.tokens: set[str] = set()
        self.tokens_asked = 0
        self.refused: list[str] = []

    def credentials(self, folder: Path, **changed: Any) -> Path:
        """The file of a service account of this FCM."""
        private = _key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        account = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": private,
            "client_email": f"sender@{PROJECT}.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        path = folder / "service-account.json"
        path.write_text(json.dumps(account | changed))
        return path

    def answer(self, request: Request) -> Answer:
        if request.path == "/token":
            return self._token(request)
        if request.path != f"/v1/projects/{PROJECT}/messages:send":
            return Answer(404, b"<html>not here</html>")
        message = json.loads(request.body)["message"]
        address = message.get("token") or message["fid"]
        with self.lock:
            self.posts[address] = nth = self.posts.get(address, 0) + 1
            if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
                return error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if scripted := self.script(address, nth):
            return scripted
        with self.lock:
            self.taken.append((address, message))
        return Answer(200, json.dumps({"name": f"projects/{PROJECT}/messages/0:{len(self.taken)}"}).encode())

    def _token(self, request: Request) -> Answer:
        with self.lock:
            self.tokens_asked += 1
        if scripted := self.token_script(self.tokens_asked):
            return scripted
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        claims = jwt.decode(form["assertion"], _key().public_key(), algorithms=["RS256"], audience=AUDIENCE)
        assert "https://www.googleapis.com/auth/cloud-platform" in claims["scope"].split()
        token = f"ya29.{time.monotonic_ns()}"
        self.tokens.add(token)
        return Answer(
            200, json.dumps({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}).encode()
        )
