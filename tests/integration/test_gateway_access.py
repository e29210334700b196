"""Who gets in, from where, with what, how often, and for how long."""

import base64
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import jwt
import pytest

pytest_plugins = ["tests.integration.gateways"]

ROOT = "/api/notifications"
SECRET = "test-secret-of-at-least-32-bytes!!"
CHANGES = [("POST", f"{ROOT}/read-all"), ("PUT", "/api/preferences"), ("POST", "/api/tickets")]


def soon(**delta):
    return datetime.now(UTC) + timedelta(**delta)


def encoded(claims, key=SECRET, algorithm="HS256"):
    return jwt.encode(claims, key, algorithm=algorithm)


def usual(**changes):
    claims = {"sub": "ada", "aud": "tocsin", "exp": soon(hours=1)} | changes
    return {key: value for key, value in claims.items() if value is not None}


REFUSED = {
    "no exp": encoded(usual(exp=None)),
    "no aud": encoded(usual(aud=None)),
    "no sub": encoded(usual(sub=None)),
    "empty sub": encoded(usual(sub="")),
    "long sub": encoded(usual(sub="x" * 129)),
    "NUL in sub": encoded(usual(sub="a\0b")),
    "another audience": encoded(usual(aud="api")),
    "expired": encoded(usual(exp=soon(seconds=-1))),
    "not yet valid": encoded(usual(nbf=soon(hours=1))),
    "another key": encoded(usual(), key="another-secret-of-at-least-32-bytes"),
    "alg none": encoded(usual(), key=None, algorithm="none"),
    "another HMAC": encoded(usual(), key=SECRET * 2, algorithm="HS512"),
    "no token": "hello",
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_token_that_does_not_fit_is_refused_everywhere(gateway, case):
    token = REFUSED[case]
    for headers in ({"authorization": f"Bearer {token}"}, {"cookie": f"tocsin_token={token}"}):
        for path in (ROOT, f"{ROOT}/unread-count", "/api/preferences", "/api/session"):
            answer = gateway.client.get(path, headers=headers)
            assert answer.status_code == 401, (path, answer.text)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["detail"]
            assert len(token) < 20 or token not in answer.text
    gateway.listen(headers={"authorization": f"Bearer {token}"}, status=401)


def test_a_token_signed_by_a_public_key_is_no_shared_secret(gateway):
    """RS/HS confusion: the header says RS256."""
    head, _, rest = encoded(usual()).partition(".")
    forged = base64.urlsafe_b64encode(b'{"alg":"RS256","typ":"JWT"}').rstrip(b"=").decode()
    assert head != forged
    answer = gateway.client.get(ROOT, headers={"authorization": f"Bearer {forged}.{rest}"})
    assert (answer.status_code, answer.json()["detail"]) == (401, "the algorithm is not HS256")


def test_a_token_issued_by_a_clock_ahead_of_ours_counts(gateway, name):
    answer = gateway.client.get(ROOT, headers=gateway.bearer(name, iat=soon(seconds=30)))
    assert answer.status_code == 200


def test_a_token_comes_by_header_or_cookie_and_the_header_wins(gateway, name):
    for headers in (gateway.bearer(name), {"cookie": f"a=b; tocsin_token={gateway.signed(name)}"}):
        assert gateway.client.get("/api/session", headers=headers).json()["user"] == name
    both = gateway.bearer(name) | {"cookie": f"tocsin_token={gateway.signed('bob')}"}
    assert gateway.client.get("/api/session", headers=both).json()["user"] == name
    basic = {"authorization": "Basic x", "cookie": f"tocsin_token={gateway.signed('bob')}"}
    assert gateway.client.get("/api/session", headers=basic).status_code == 401


def test_the_session_says_until_when(gateway, name):
    ends = soon(minutes=5).replace(microsecond=0)
    answer = gateway.client.get("/api/session", headers=gateway.bearer(name, exp=ends))
    assert answer.json() == {"user": name, "expiresAt": ends.isoformat().replace("+00:00", "Z")}


FOREIGN = [
    "https://evil.example",
    "null",
    "http://127.0.0.1:1",
    "http://127.0.0.1.evil.example",
    "https://127.0.0.1",
]


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("by", ["header", "cookie"])
def test_a_foreign_page_changes_nothing(gateway, name, origin, by):
    token = gateway.bearer(name) if by == "header" else {"cookie": f"tocsin_token={gateway.signed(name)}"}
    gateway.inboxes.write(name)
    for method, path in CHANGES:
        body = {"preferences": [{"type": "comment", "enabled": False}]}
        answer = gateway.client.request(method, path, headers=token | {"origin": origin}, json=body)
        assert answer.status_code == 403, answer.text
        assert "access-control-allow-origin" not in answer.headers
    assert gateway.inboxes.unread(name) == 1
    gateway.listen(headers=token | {"origin": origin}, status=403)


def test_our_own_page_may_change_things(gateway, name):
    cookie = {"cookie": f"tocsin_token={gateway.signed(name)}"}
    for proof in ({"origin": gateway.url}, {"sec-fetch-site": "same-origin"}):
        answer = gateway.client.post(f"{ROOT}/read-all", headers=cookie | proof)
        assert answer.status_code == 200, answer.text
        gateway.listen(headers=cookie | proof).until("unread-count")


@pytest.mark.parametrize("site", [None, "same-site", "cross-site", "none"])
def test_a_cookie_without_origin_counts_only_from_our_own_page(gateway, name, site):
    headers = {"cookie": f"tocsin_token={gateway.signed(name)}"} | ({"sec-fetch-site": site} if site else {})
    assert gateway.client.post(f"{ROOT}/read-all", headers=headers).status_code == 403
    gateway.listen(headers=headers, status=403)


def test_an_allowed_page_elsewhere_may_ask_across_origins(gateway, name):
    asked = {"origin": gateway.url, "access-control-request-method": "PUT"}
    preflight = gateway.client.options("/api/preferences", headers=asked)
    assert preflight.headers["access-control-allow-origin"] == gateway.url
    assert preflight.headers["access-control-allow-credentials"] == "true"
    answer = gateway.client.get(ROOT, headers=gateway.bearer(name) | {"origin": gateway.url})
    assert answer.headers["access-control-allow-origin"] == gateway.url


def test_a_ticket_opens_one_stream(gateway, name):
    answer = gateway.post(name, "/api/tickets").json()
    assert answer["expiresIn"] == 30
    assert answer["ticket"] not in str(gateway.inboxes.redis.keys("*"))
    (key,) = gateway.inboxes.redis.keys("tocsin:ticket:*")
    assert 0 < gateway.inboxes.redis.ttl(key) <= 30
    gateway.inboxes.write(name)
    assert gateway.listen(headers={}, ticket=answer["ticket"]).next() == ("unread-count", {"count": 1})
    gateway.listen(headers={}, ticket=answer["ticket"], status=401)
    # A ticket that does not count is not made good by a cookie.
    gateway.listen(headers={"cookie": f"tocsin_token={gateway.signed(name)}"}, ticket="x", status=401)


def test_a_ticket_of_a_foreign_page_opens_nothing_and_stays(gateway, name):
    ticket = gateway.post(name, "/api/tickets").json()["ticket"]
    gateway.listen(headers={"origin": "https://evil.example"}, ticket=ticket, status=403)
    gateway.listen(headers={"origin": gateway.url}, ticket=ticket).until("unread-count")


def test_a_stream_ends_with_its_token(gateway, name):
    ends = soon(seconds=3)
    by_token = gateway.listen(headers=gateway.bearer(name, exp=ends))
    answer = gateway.client.post("/api/tickets", headers=gateway.bearer(name, exp=ends))
    by_ticket = gateway.listen(headers={}, ticket=answer.json()["ticket"])
    for listener in (by_token, by_ticket):
        assert listener.ended()
    assert datetime.now(UTC) >= ends - timedelta(seconds=1), "not before"
    gateway.inboxes.tell(name)


def test_a_user_has_fifty_streams_at_most(gateway, name):
    listeners = [gateway.listen(name) for _ in range(50)]
    refused = gateway.listen(name, status=429)
    assert refused.response.getheader("retry-after")
    gateway.listen(f"{name}-other").until("unread-count")
    listeners[0].close()
    gateway.listeners.remove(listeners[0])
    deadline = time.monotonic() + 10
    while True:
        try:
            gateway.listen(name).until("unread-count")
        except AssertionError:
            assert time.monotonic() < deadline
        else:
            break


def raw(gateway):
    host, port = gateway.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=15)


def test_a_head_that_never_ends_is_cut_off(gateway):
    with raw(gateway) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        with pytest.raises(OSError, match=r"reset|Broken"):
            connection.sendall(b"x" * 50_000_000)


def test_a_body_that_is_too_large_is_refused(gateway, name):
    body = b'{"preferences": [' + b" " * 70_000 + b"]}"
    answer = gateway.client.put("/api/preferences", headers=gateway.bearer(name), content=body)
    assert answer.status_code == 413


def test_the_development_sign_in_exists_in_development_only(gateway):
    assert gateway.client.post("/dev/token", json={"user": "ada"}).status_code == 404
    assert "development" not in gateway.client.get("/api/session").json()


def test_in_development_anybody_may_be_anybody(start, environment, settings, eventually):
    start(environment | {"TOCSIN_DEVELOPMENT": "1"}, "python", "-m", "workers.gateway")
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.gateway_port}") as client:
        eventually(lambda: answers(client), 60)
        assert client.get("/api/session").json()["development"] is True
        assert client.post("/dev/token", json={"user": ""}).status_code == 422
        foreign = client.post("/dev/token", json={"user": "ada"}, headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
        signed_in = client.post("/dev/token", json={"user": "ada"})
        assert signed_in.json()["user"] == "ada"
        cookie = signed_in.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert client.get("/api/session").json().items() >= (signed_in.json() | {"development": True}).items()


def test_without_a_secret_nobody_gets_in_and_is_told_why(start, environment, settings, eventually):
    start(environment | {"TOCSIN_JWT_SECRET": ""}, "python", "-m", "workers.gateway")
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.gateway_port}") as client:
        eventually(lambda: answers(client), 60)
        empty_key = jwt.encode(usual(), "", algorithm="none")
        for path in (ROOT, "/api/session", f"{ROOT}/stream"):
            answer = client.get(path, headers={"authorization": f"Bearer {empty_key}"})
            assert answer.status_code == 503
            assert "TOCSIN_JWT_SECRET" in answer.json()["detail"]


def answers(client):
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_taken_port_is_one_clear_line(environment, settings):
    with socket.create_server(("127.0.0.1", settings.gateway_port)):
        ended = subprocess.run(
            [sys.executable, "-m", "workers.gateway"],
            check=False,
            cwd=Path(__file__).parents[2],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 1
    assert ended.stderr == f"port {settings.gateway_port} is taken: set TOCSIN_GATEWAY_PORT to a free one\n"


def test_logs_hold_no_token_and_no_content(gateway, name):
    ticket = gateway.post(name, "/api/tickets").json()["ticket"]
    listener = gateway.listen(headers={}, ticket=ticket)
    gateway.inboxes.tell(name, "canary-title")
    listener.seqs(1)
    gateway.listen(headers={"authorization": "Bearer canary.token.x"}, status=401)
    gateway.listen(headers=gateway.bearer(name) | {"origin": "https://evil.example"}, status=403)
    log = gateway.process.text()
    assert "evil.example" in log
    for secret in (ticket, "canary", SECRET, name):
        assert secret not in log
