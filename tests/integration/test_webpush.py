"""The channel `webpush`: the real pywebpush against a scripted push service over real sockets. What arrives is
decrypted by http_ece and its signature is checked by PyJWT."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pipelines import push
from pipelines.stage import Resources
from schema.delivery import Away, Gone, Later, Never, Outcome, Parcel, Sent, Unknown
from tests.fakes.answers import Answer
from tests.fakes.push_service import Browser, FakePushService, base64url, browser, unbase64
from workers.channels import webpush
from workers.providers import posting, push_signature
from workers.settings import settings

Configure = Callable[..., None]
USE = cast("Resources", None)
KEY = ec.generate_private_key(ec.SECP256R1())
RAW = base64url(KEY.private_numbers().private_value.to_bytes(32, "big"))
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
SUBJECT = "mailto:ops@example.com"


@pytest.fixture
def configure() -> Iterator[Configure]:
    """configure(hosts, key=…): this process may send there, with that key."""
    with pytest.MonkeyPatch.context() as environment:

        def set_up(hosts: str, key: str = RAW, subject: str = SUBJECT) -> None:
            environment.setenv("TOCSIN_PUSH_HOSTS", hosts)
            environment.setenv("TOCSIN_VAPID_PRIVATE_KEY", key)
            environment.setenv("TOCSIN_VAPID_SUBJECT", subject)
            settings.cache_clear()
            webpush.close()

        yield set_up
        webpush.close()
    settings.cache_clear()


@pytest.fixture
def service(configure: Configure) -> Iterator[FakePushService]:
    with FakePushService() as fake:
        configure(fake.authority)
        yield fake
        webpush.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second instead of ten."""
    monkeypatch.setattr(posting, "SECONDS", 0.5)


def parcel(endpoint: str, to: Browser | None = None, **changed: Any) -> Parcel:
    usual: dict[str, Any] = {
        "delivery": uuid4(),
        "attempt": 1,
        "notification": UUID(int=1),
        "user": "ada",
        "address": endpoint,
        "device": uuid4(),
        "kind": "web_push",
        "keys": (to or browser()).keys,
        "type": "comment",
        "category": "social",
        "importance": "normal",
        "title": "Bob commented",
        "message": "“Nice!” 👍🏽",
        "action_url": "/posts/1",
        "data": {},
        "created_at": datetime.now(UTC),
        "unread": 3,
    }
    return Parcel(**usual | changed)


def send(*parcels: Parcel) -> list[Outcome]:
    return webpush.send(parcels, USE)


def test_ready_is_whether_there_is_a_key(configure: Configure) -> None:
    configure("example.com")
    assert webpush.ready()
    configure("example.com", key="")
    assert not webpush.ready()


def test_no_parcels_no_call(service: FakePushService) -> None:
    assert send() == []
    assert not service.counts


def test_a_message_arrives_and_only_that_browser_can_read_it(service: FakePushService) -> None:
    to, group = browser(), UUID(int=2)
    ends = datetime.now(UTC) + timedelta(hours=1)
    one = parcel(
        service.endpoint("a"), to, importance="high", group=group, replaces=(UUID(int=1),), expires_at=ends
    )
    assert send(one) == [Sent(f"{service.url}/message/1")]
    [(_, request)] = service.taken
    assert to.decrypted(request.body) == {
        "title": "Bob commented",
        "body": "“Nice!” 👍🏽",
        "tag": str(group),
        "url": "/posts/1",
        "notificationId": str(UUID(int=1)),
        "type": "comment",
        "badge": 3,
        "replaces": [str(UUID(int=1))],
    }
    assert 3590 <= int(request.headers["ttl"]) <= 3600
    assert request.headers["urgency"] == "high"
    assert unbase64(request.headers["topic"]) == group.bytes
    assert len(request.headers["topic"]) <= 32
    assert request.headers["content-encoding"] == "aes128gcm"
    assert b"Bob" not in request.body


def test_a_day_when_it_has_no_end(service: FakePushService) -> None:
    send(parcel(service.endpoint("a")))
    assert service.taken[0][1].headers["ttl"] == "86400"


def test_one_that_has_ended_is_not_kept(service: FakePushService) -> None:
    send(parcel(service.endpoint("a"), expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert service.taken[0][1].headers["ttl"] == "0"


FORMS = {
    "raw": RAW,
    "padded": RAW + "=",
    "spaced": f" {RAW}\n",
    "PEM": PEM,
    "PEM in a line": PEM.replace("\n", "\\n"),
}


@pytest.mark.parametrize("key", FORMS.values(), ids=FORMS)
def test_a_key_is_taken_in_both_forms(key: str, service: FakePushService, configure: Configure) -> None:
    configure(service.authority, key=key)
    assert [type(one) for one in send(parcel(service.endpoint("a")))] == [Sent]
    [claims] = service.claims
    assert unbase64(claims["k"]) == KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert claims["sub"] == SUBJECT
    assert claims["aud"] == service.url
    assert time.time() + 3600 < claims["exp"] <= time.time() + 24 * 3600


P384 = ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
NO_KEYS = {
    "short": "x",
    "no base64": "!" * 43,
    "zero": base64url(bytes(32)),
    "beyond the curve": base64url(b"\xff" * 32),
    "no PEM": "-----BEGIN",
    "of another curve": P384.decode(),
}


@pytest.mark.parametrize("key", NO_KEYS.values(), ids=NO_KEYS)
def test_it_is_said_what_is_wrong_with_the_key(key: str, service: FakePushService, configure: Configure) -> None:
    """And everything waits until it is put right."""
    configure(service.authority, key=key)
    [outcome] = send(parcel(service.endpoint("a")))
    assert isinstance(outcome, Away)
    assert outcome.reason == "not_configured"
    assert "TOCSIN_VAPID_PRIVATE_KEY" in outcome.said
    assert "tocsin keys vapid" in outcome.said
    assert key not in outcome.said
    assert not service.counts


def test_it_is_said_what_is_wrong_with_the_subject(service: FakePushService, configure: Configure) -> None:
    configure(service.authority, subject="ops")
    [outcome] = send(parcel(service.endpoint("a")))
    assert isinstance(outcome, Away)
    assert "TOCSIN_VAPID_SUBJECT" in outcome.said


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(200), Sent()),
        (Answer(202), Sent()),
        (Answer(404, b"m"), Gone("unsubscribed", "m")),
        (Answer(410, b"m"), Gone("unsubscribed", "m")),
        (Answer(400, b"m"), Never("http_400", "m")),
        (Answer(413, b"m"), Never("too_large", "m")),
        (Answer(401, b"m"), Away("vapid", "m")),
        (Answer(403, b"m"), Away("vapid", "m")),
        (Answer(429, b"m", (("retry-after", "90"),)), Later("throttled", "m", 90)),
        (Answer(429, b"m"), Later("throttled", "m", 60)),
        (Answer(429, b"m", (("retry-after", "soon"),)), Later("throttled", "m", 60)),
        (Answer(500, b"m"), Later("http_500", "m", 10)),
        (Answer(502, b"<html>"), Later("http_502", "<html>", 10)),
        (Answer(503, b"m", (("retry-after", "120"),)), Later("http_503", "m", 120)),
        (Answer(503, b"m", (("retry-after", "999999999999"),)), Later("http_503", "m", 3600)),
        (Answer(301, b"", (("location", "/push/b"),)), Never("redirected")),
        (Answer(307, b"", (("location", "/push/b"),)), Never("redirected")),
        (Answer(cut=True), Unknown("connection_lost")),
    ],
)
def test_what_an_answer_means(
    answer: Answer, expected: Outcome, service: FakePushService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is never asked for a second one."""
    monkeypatch.setattr(webpush, "_took", set())
    service.script = lambda *_: answer
    begun = time.monotonic()
    assert send(parcel(service.endpoint("a"))) == [expected]
    assert time.monotonic() - begun < 5
    assert service.posts == {"a": 1}


def test_a_batch_goes_side_by_side_and_comes_back_in_order(service: FakePushService) -> None:
    service.script = lambda id, _: Answer(410) if int(id) % 10 == 3 else Answer(201, slow=0.2)
    begun = time.monotonic()
    outcomes = send(*(parcel(service.endpoint(str(number))) for number in range(100)))
    assert time.monotonic() - begun < 15, "one by one it is 18 s of waiting"
    assert [isinstance(outcome, Gone) for outcome in outcomes] == [number % 10 == 3 for number in range(100)]
    assert set(service.posts.values()) == {1}


def test_one_refused_subscription_does_not_stop_the_channel(service: FakePushService) -> None:
    """It was made with another key of ours; the service takes this one from others."""
    service.script = lambda id, _: Answer(403) if id == "old" else None
    outcomes = send(parcel(service.endpoint("old")), parcel(service.endpoint("new")))
    assert [type(outcome) for outcome in outcomes] == [Later, Sent]
    assert [type(outcome) for outcome in send(parcel(service.endpoint("old")))] == [Later]


@pytest.mark.parametrize(
    "keys",
    [
        None,
        {},
        {"p256dh": "x"},
        {"p256dh": "", "auth": ""},
        {"p256dh": base64url(b"\x04" + bytes(64)), "auth": base64url(bytes(16))},
        {"p256dh": "!", "auth": "!"},
        {"p256dh": 7, "auth": 7},
    ],
)
def test_keys_that_nobody_can_encrypt_for(keys: dict[str, Any] | None, service: FakePushService) -> None:
    outcomes = send(parcel(service.endpoint("bad"), keys=keys), parcel(service.endpoint("good")))
    assert outcomes[0] == Gone("bad_keys")
    assert isinstance(outcomes[1], Sent)
    assert "bad" not in service.posts


def test_no_answer_is_not_asked_for_again(service: FakePushService, impatient: None) -> None:
    service.script = lambda id, _: Answer(hang=True) if id == "bad" else None
    outcomes = send(parcel(service.endpoint("bad")), parcel(service.endpoint("good")))
    assert outcomes[0] == Unknown("timeout")
    assert isinstance(outcomes[1], Sent)
    assert service.posts == {"bad": 1, "good": 1}


def test_a_batch_ends_in_time(service: FakePushService, monkeypatch: pytest.MonkeyPatch) -> None:
    service.script = lambda id, _: Answer(hang=True) if int(id) < 2 else None
    assert isinstance(send(parcel(service.endpoint("4")))[0], Sent)
    monkeypatch.setattr(posting, "BATCH_SECONDS", 1.0)
    monkeypatch.setattr(posting, "THREADS", 2)
    outcomes = send(*(parcel(service.endpoint(str(number))) for number in range(4)))
    assert outcomes == [Unknown("timeout")] * 2 + [Later("slow", wait=10, answered=False)] * 2
    assert service.posts == {"0": 1, "1": 1, "4": 1}
    service.ending.set()


def test_one_that_is_not_there_does_not_stop_the_others(
    service: FakePushService, configure: Configure, free_port: Callable[[], int]
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    configure(f"{service.authority}, {nowhere}")
    outcomes = send(parcel(f"http://{nowhere}/push/a"), parcel(service.endpoint("a")))
    assert outcomes[0] == Later("unreachable", wait=10, answered=False)
    assert isinstance(outcomes[1], Sent)


class TestWhereItMayGo:
    """An endpoint comes from outside: it must not name a server of our own network."""

    @pytest.mark.parametrize(
        "endpoint",
        [
            "https://evil.example/push",
            "http://push.example/push",
            "https://push.example:8443/push",
            "https://push.example@evil.example/push",
            "https://127.0.0.1/push",
            "https://169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
            "https://[::1/",
            "",
        ],
    )
    def test_a_host_that_is_not_listed(self, endpoint: str, configure: Configure) -> None:
        configure("push.example")
        [outcome] = send(parcel(endpoint))
        assert isinstance(outcome, Gone)
        assert outcome.reason == "endpoint_refused"
        assert not endpoint or endpoint not in outcome.said

    @pytest.mark.parametrize(
        "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "::1", "fd00::1"]
    )
    def test_a_listed_name_that_leads_into_our_network(
        self, address: str, configure: Configure, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is sent, and the subscription stays: a resolver may be wrong for a while."""
        asked = []

        def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
            asked.append(host)
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        configure("push.example")
        outcomes = send(*(parcel(f"https://push.example/{number}") for number in range(5)))
        assert outcomes == [Later("endpoint_refused", "leads into a private or reserved network")] * 5
        assert asked == ["push.example"], "once for a batch, and no connection"

    def test_a_name_that_nobody_knows(self, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
        def resolve(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        configure("push.example")
        assert send(parcel("https://push.example/a")) == [Later("unreachable", "its name cannot be resolved", 10)]

    def test_the_network_is_not_looked_at_in_development(
        self, configure: Configure, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOCSIN_DEVELOPMENT", "true")
        configure("localhost")
        [outcome] = send(parcel("https://localhost/a"))
        assert outcome == Later("unreachable", wait=10, answered=False), "nobody listens on 443 here"


def test_a_signature_is_made_once_an_hour(service: FakePushService) -> None:
    """Not once in every thread: each would be another one, and cost more than the rest of a push."""
    begin = threading.Barrier(8)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:

            def sign(origin: str) -> str:
                begin.wait(10)
                return push_signature.authorization(origin)

            for number in range(20):
                origin = f"https://{number}.example"
                assert len(set(threads.map(sign, [origin] * 8))) == 1
    finally:
        sys.setswitchinterval(usual)
    send(*(parcel(service.endpoint(str(number))) for number in range(20)))
    send(*(parcel(service.endpoint(str(number))) for number in range(20)))
    assert len({request.headers["authorization"] for _, request in service.taken}) == 1


def test_a_lease_outlasts_a_batch() -> None:
    assert webpush.LEASE > posting.BATCH_SECONDS + 5
    assert push.WEB_PUSH_BYTES + 103 < 4096


def test_a_netrc_does_not_take_the_signatures_place(
    service: FakePushService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password something")
    monkeypatch.setenv("NETRC", str(netrc))
    assert [type(one) for one in send(parcel(service.endpoint("a")))] == [Sent]


def test_no_cookie_is_kept(service: FakePushService) -> None:
    service.script = lambda *_: Answer(201, headers=(("set-cookie", "a=b"),))
    send(parcel(service.endpoint("a")))
    service.script = lambda *_: None
    send(parcel(service.endpoint("a")))
    assert "cookie" not in service.taken[0][1].headers
