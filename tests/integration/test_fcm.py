"""The channel `fcm`: the real firebase-admin, with its OAuth flow, against a scripted FCM over real sockets."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from pipelines import push
from pipelines.stage import Resources
from schema.delivery import Away, Gone, Later, Never, Outcome, Parcel, Sent, Unknown
from tests.fakes.answers import Answer
from tests.fakes.fcm import BAD_REQUEST, HTML, PROJECT, QUOTA_FAILURE, FakeFcm, error
from workers.channels import fcm
from workers.providers import firebase, posting
from workers.providers.fcm_answers import MALFORMED
from workers.settings import settings

Configure = Callable[..., None]
USE = cast("Resources", None)
UNREGISTERED = error(404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED")
MISMATCH = error(403, "PERMISSION_DENIED", "SenderId mismatch", "SENDER_ID_MISMATCH")
THIRD_PARTY = error(401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service", "THIRD_PARTY_AUTH_ERROR")


def parcel(address: str = "good", **changed: Any) -> Parcel:
    usual: dict[str, Any] = {
        "delivery": uuid4(),
        "attempt": 1,
        "notification": UUID(int=1),
        "user": "ada",
        "address": address,
        "device": uuid4(),
        "kind": "fcm_token",
        "type": "comment",
        "category": "social",
        "importance": "normal",
        "title": "Bob commented",
        "message": "“Nice!” 👍🏽",
        "action_url": "/posts/1",
        "data": {"postId": 7},
        "created_at": datetime.now(UTC),
    }
    return Parcel(**usual | changed)


def send(*parcels: Parcel) -> list[Outcome]:
    return fcm.send(parcels, USE)


def said(outcome: Outcome) -> str:
    return "" if isinstance(outcome, Sent) else outcome.said


@contextmanager
def configuring() -> Iterator[Configure]:
    """configure(url, credentials): this process sends there, with connections of its own."""
    with pytest.MonkeyPatch.context() as environment:

        def configure(url: str, credentials: Path) -> None:
            environment.setenv("TOCSIN_FCM_URL", url)
            environment.setenv("TOCSIN_FCM_CREDENTIALS", str(credentials))
            settings.cache_clear()
            fcm.close()

        yield configure
        fcm.close()
    settings.cache_clear()


@pytest.fixture
def configure() -> Iterator[Configure]:
    with configuring() as function:
        yield function


@pytest.fixture
def provider(configure: Configure, tmp_path: Path) -> Iterator[FakeFcm]:
    with FakeFcm() as fake:
        configure(fake.url, fake.credentials(tmp_path))
        yield fake
        fcm.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second instead of ten."""
    monkeypatch.setattr(posting, "SECONDS", 0.5)


def test_ready_is_whether_it_is_configured(provider: FakeFcm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fcm.ready()
    monkeypatch.setenv("TOCSIN_FCM_CREDENTIALS", "")
    settings.cache_clear()
    assert not fcm.ready()


def test_a_message_arrives_whole(provider: FakeFcm) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    one = parcel(importance="high", unread=3, expires_at=ends, group=UUID(int=2), count=5)
    [outcome] = send(one)
    assert outcome == Sent(f"projects/{PROJECT}/messages/0:1")
    [(address, message)] = provider.taken
    assert address == message.pop("token") == "good"
    seconds = int(message["android"]["ttl"].rstrip("s"))
    assert 3590 <= seconds <= 3600
    assert message == push.fcm_message(one, ends - timedelta(seconds=seconds))


def test_an_installation_id_is_one(provider: FakeFcm) -> None:
    assert [type(one) for one in send(parcel("an-id", kind="fcm_installation"))] == [Sent]
    [(_, message)] = provider.taken
    assert message["fid"] == "an-id"
    assert "token" not in message


def test_no_parcels_no_call(provider: FakeFcm) -> None:
    assert send() == []
    assert not provider.counts


def test_one_token_for_all(provider: FakeFcm) -> None:
    """From several batches at once, and their threads."""
    outcomes: list[Outcome] = []

    def batch(number: int) -> None:
        outcomes.extend(send(*(parcel(f"{number}-{n}") for n in range(50))))

    threads = [threading.Thread(target=batch, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(outcome) for outcome in outcomes] == [Sent] * 150
    assert provider.tokens_asked == 1
    assert set(provider.posts.values()) == {1}


NOT_VALID = "The registration token is not a valid FCM registration token"
FIELD = {"@type": BAD_REQUEST, "fieldViolations": [{"field": "message.token", "description": "Invalid"}]}
OTHER_FIELD = {"@type": BAD_REQUEST, "fieldViolations": [{"field": "message.data[0].value", "description": "12"}]}
DEVICE = {"@type": QUOTA_FAILURE, "violations": [{"subject": "device:1", "description": "message rate exceeded"}]}


class TestWhatAnAnswerMeans:
    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeFcm]:
        """To open firebase-admin takes longer than the rest of a case."""
        with FakeFcm() as fake, configuring() as configure:
            configure(fake.url, fake.credentials(tmp_path_factory.mktemp("fcm")))
            yield fake

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (UNREGISTERED, Gone("unregistered", "Requested entity was not found.")),
            (error(404, "NOT_FOUND", "m"), Never("not_found", "m")),
            (error(400, "INVALID_ARGUMENT", "m", "INVALID_ARGUMENT", FIELD), Gone("bad_token", "m")),
            (error(400, "INVALID_ARGUMENT", "m", "", OTHER_FIELD), Never("invalid_argument", "m")),
            (error(400, "INVALID_ARGUMENT", "too big", "INVALID_ARGUMENT"), Never("invalid_argument", "too big")),
            (error(400, "INVALID_ARGUMENT", NOT_VALID, "INVALID_ARGUMENT"), Gone("bad_token", NOT_VALID)),
            (MISMATCH, Never("sender_id_mismatch", "SenderId mismatch")),
            (error(429, "RESOURCE_EXHAUSTED", "m", "QUOTA_EXCEEDED", retry_after="90"), Away("quota", "m", 90)),
            (error(429, "RESOURCE_EXHAUSTED", "m", "QUOTA_EXCEEDED"), Away("quota", "m", 60)),
            (error(429, "RESOURCE_EXHAUSTED", "m"), Away("quota", "m", 60)),
            (error(429, "RESOURCE_EXHAUSTED", "m", "QUOTA_EXCEEDED", DEVICE), Later("device_quota", "m", 60)),
            (THIRD_PARTY, Later("third_party_auth", "Auth error from APNS or Web Push Service", 10)),
            (error(401, "UNAUTHENTICATED", "m"), Away("unauthenticated", "m")),
            (error(403, "PERMISSION_DENIED", "m"), Away("forbidden", "m")),
            (error(500, "INTERNAL", "m", "INTERNAL"), Later("http_500", "m", 10, answered=False)),
            (error(503, "UNAVAILABLE", "m", "UNAVAILABLE"), Later("http_503", "m", 10, answered=False)),
            (
                error(503, "UNAVAILABLE", "m", "UNAVAILABLE", retry_after="120"),
                Later("http_503", "m", 120, answered=False),
            ),
            (
                error(503, "UNAVAILABLE", "m", "UNAVAILABLE", retry_after="1"),
                Later("http_503", "m", 10, answered=False),
            ),
            (Answer(502, HTML), Later("http_502", "", 10, answered=False)),
            (Answer(404, HTML), Later("http_404", "", 10, answered=False)),
            (Answer(500, b"\xff\xfe"), Later("http_500", "", 10, answered=False)),
            (Answer(500, b'{"error": "a string"}'), Later("http_500", "", 10, answered=False)),
            (Answer(503, b'{"error": {"details": ["no object"]}}'), Later("http_503", "", 10, answered=False)),
            (Answer(503, b"[]"), Later("http_503", "", 10, answered=False)),
            (Answer(503, b"[" * 100_000), Later("http_503", "", 10, answered=False)),
            (Answer(302, b"", (("location", "/elsewhere"),)), Later("http_302", "", 10, answered=False)),
            (Answer(200, b" <html>"), Unknown("html_answer")),
            (Answer(200, b""), Sent(said=MALFORMED)),
            (Answer(200, b"{}"), Sent(said=MALFORMED)),
            (Answer(200, b"[]"), Sent(said=MALFORMED)),
            (Answer(200, b'"name"'), Sent(said=MALFORMED)),
            (Answer(200, b"null"), Sent(said=MALFORMED)),
            (Answer(200, b'{"name": 7}'), Sent(said=MALFORMED)),
            (Answer(200, b'{"name": "'), Sent(said=MALFORMED)),
            (Answer(cut=True), Unknown("connection_lost")),
        ],
    )  # fmt: skip
    def test_it(self, answer: Answer, expected: Outcome, shared: FakeFcm) -> None:
        """And it is never asked for a second one, nor is what a redirect names."""
        shared.script = lambda address, _: answer if address == "bad" else None
        shared.posts.clear()
        shared.counts.clear()
        begun = time.monotonic()
        assert send(parcel("bad")) == [expected]
        assert time.monotonic() - begun < 5
        assert shared.posts == {"bad": 1}
        assert shared.counts.keys() <= {"POST /token", f"POST /v1/projects/{PROJECT}/messages:send"}


def test_a_date_to_retry_after(provider: FakeFcm) -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=200), usegmt=True)
    provider.script = lambda *_: error(429, "RESOURCE_EXHAUSTED", retry_after=at)
    [outcome] = send(parcel())
    assert isinstance(outcome, Away)
    assert 190 < outcome.wait <= 200


def test_one_malformed_answer_of_a_hundred(provider: FakeFcm) -> None:
    """R56: 99 are sent, of one nobody knows the name, and nobody is sent anything twice."""
    provider.script = lambda address, _: Answer(200, b"[]") if address == "42" else None
    outcomes = send(*(parcel(str(number)) for number in range(100)))
    assert [type(one) for one in outcomes] == [Sent] * 100
    assert outcomes[42] == Sent(said=MALFORMED)
    assert set(provider.posts.values()) == {1}
    assert len(provider.posts) == 100
    assert len({one.receipt for one in outcomes if isinstance(one, Sent)}) == 100


def test_the_order_of_outcomes_is_that_of_the_parcels(provider: FakeFcm) -> None:
    answers = {"gone": UNREGISTERED, "later": Answer(503, HTML), "slow": Answer(503, HTML, slow=0.2)}
    provider.script = lambda address, _: answers.get(address)
    outcomes = send(*(parcel(address) for address in ("slow", "gone", "good", "later", "good2")))
    assert [type(outcome) for outcome in outcomes] == [Later, Gone, Sent, Later, Sent]


def test_a_quota_stops_the_batch(provider: FakeFcm) -> None:
    """What had not begun is not tried, and waits as long."""
    provider.script = lambda *_: error(429, "RESOURCE_EXHAUSTED", "m", "QUOTA_EXCEEDED", retry_after="90")
    begun = time.monotonic()
    assert send(*(parcel(str(number)) for number in range(100))) == [Away("quota", "m", 90)] * 100
    assert time.monotonic() - begun < 10, "nobody slept for Retry-After"
    assert len(provider.posts) < 100
    assert set(provider.posts.values()) == {1}


class TestAnotherProject:
    """R59: a service account of another project deletes nobody's device."""

    def test_all_of_a_batch(self, provider: FakeFcm) -> None:
        provider.script = lambda *_: MISMATCH
        expected = Away("sender_id_mismatch", "SenderId mismatch")
        assert send(*(parcel(str(number)) for number in range(10))) == [expected] * 10
        assert send(parcel()) == [expected], "the one that asks whether it is over"
        provider.script = lambda *_: None
        assert [type(outcome) for outcome in send(parcel())] == [Sent]
        provider.script = lambda *_: MISMATCH
        assert send(parcel()) == [Never("sender_id_mismatch", "SenderId mismatch")]

    @pytest.mark.parametrize(
        ("strangers", "others", "kind"), [(1, 0, Never), (2, 0, Never), (3, 3, Never), (3, 2, Away)]
    )
    def test_some_of_a_batch(self, strangers: int, others: int, kind: type, provider: FakeFcm) -> None:
        provider.script = lambda address, _: MISMATCH if address.startswith("stranger") else None
        addresses = [f"stranger{number}" for number in range(strangers)] + [str(n) for n in range(others)]
        outcomes = send(*map(parcel, addresses))
        assert [type(outcome) for outcome in outcomes] == [kind] * strangers + [Sent] * others


def test_no_key_for_apples_devices_does_not_stop_the_others(provider: FakeFcm) -> None:
    provider.script = lambda address, _: THIRD_PARTY if address == "iphone" else None
    outcomes = send(parcel("iphone"), parcel("android"))
    assert [type(outcome) for outcome in outcomes] == [Later, Sent]
    assert [type(outcome) for outcome in send(parcel("iphone"))] == [Later]


def test_a_token_that_is_refused_is_forgotten(provider: FakeFcm) -> None:
    assert isinstance(send(parcel("a"))[0], Sent)
    provider.tokens.clear()
    assert [type(one) for one in send(parcel("b"))] == [Away]
    assert provider.posts["b"] == 1
    assert [type(one) for one in send(parcel("b"))] == [Sent]
    assert provider.tokens_asked == 2


class TestNoToken:
    """R57: nothing is sent and nothing is lost; everything waits."""

    def test_the_key_was_revoked(self, provider: FakeFcm) -> None:
        said = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        provider.token_script = lambda _: Answer(400, json.dumps(said).encode())
        expected = Away("oauth_refused", "invalid_grant: Invalid JWT Signature.")
        assert send(parcel(), parcel()) == [expected] * 2
        assert send(parcel()) == [expected]
        assert provider.tokens_asked == 1, "nobody asks again at once"
        assert not provider.posts

    def test_it_comes_back(self, provider: FakeFcm, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(firebase, "REFUSED_SECONDS", 0.0)
        provider.token_script = lambda nth: Answer(400, b'{"error": "invalid_grant"}') if nth == 1 else None
        assert [type(one) for one in send(parcel())] == [Away]
        assert [type(one) for one in send(parcel())] == [Sent]

    @pytest.mark.parametrize("answer", [Answer(hang=True), Answer(cut=True), Answer(200, b"<html>")])
    def test_it_does_not_answer(self, answer: Answer, provider: FakeFcm, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(firebase, "TOKEN_SECONDS", 0.3)
        provider.token_script = lambda _: answer
        assert [type(one) for one in send(parcel(), parcel())] == [Away, Away]
        assert not provider.posts

    def test_nobody_is_there(self, configure: Configure, tmp_path: Path, free_port: Callable[[], int]) -> None:
        with FakeFcm() as fake:
            nowhere = f"http://127.0.0.1:{free_port()}/token"
            configure(fake.url, fake.credentials(tmp_path, token_uri=nowhere))
            assert send(parcel()) == [Away("oauth_unreachable")]
            fcm.close()


def test_nobody_is_there(configure: Configure, tmp_path: Path, free_port: Callable[[], int]) -> None:
    """Nothing was sent, and no try is spent."""
    with FakeFcm() as fake:
        configure(f"http://127.0.0.1:{free_port()}", fake.credentials(tmp_path))
        assert send(parcel(), parcel()) == [Away("unreachable")] * 2
        fcm.close()


def test_no_answer_is_not_asked_for_again(provider: FakeFcm, impatient: None) -> None:
    """R55: FCM may have it. The thread is free again when the time is up."""
    provider.script = lambda address, _: Answer(hang=True) if address == "bad" else None
    begun = time.monotonic()
    assert [type(one) for one in send(parcel("bad"), parcel())] == [Unknown, Sent]
    assert send(parcel("bad"))[0] == Unknown("timeout")
    assert time.monotonic() - begun < 3
    assert provider.posts == {"bad": 2, "good": 1}


def test_an_answer_that_ends_in_the_middle(provider: FakeFcm, impatient: None) -> None:
    provider.script = lambda *_: Answer(200, b"{", (("content-length", "100"),))
    assert send(parcel())[0] in (Unknown("timeout"), Unknown("connection_lost"))
    assert provider.posts == {"good": 1}


def test_a_batch_ends_in_time(provider: FakeFcm, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs may have been sent; what never began has not, and never is."""
    provider.script = lambda address, _: Answer(hang=True) if int(address) < 4 else None
    assert send(parcel("4")) == [Sent(f"projects/{PROJECT}/messages/0:1")]
    monkeypatch.setattr(posting, "BATCH_SECONDS", 1.0)
    monkeypatch.setattr(posting, "THREADS", 4)
    outcomes = send(*(parcel(str(number)) for number in range(8)))
    assert outcomes == [Unknown("timeout")] * 4 + [Away("slow")] * 4
    assert provider.posts == {"0": 1, "1": 1, "2": 1, "3": 1, "4": 1}
    assert send(parcel("5")) == [Sent(f"projects/{PROJECT}/messages/0:2")], "threads that hang are not missed"
    provider.ending.set()


def test_a_lease_outlasts_a_batch() -> None:
    assert fcm.LEASE > posting.BATCH_SECONDS + 5
    assert min(fcm.SCHEDULE) * 0.8 >= 10, "FCM wants to be left alone for ten seconds, and waits differ by a fifth"


def test_it_is_said_what_is_wrong_with_the_credentials(configure: Configure, tmp_path: Path) -> None:
    """And everything waits until it is put right."""
    missing, wrong = tmp_path / "missing.json", tmp_path / "wrong.json"
    configure("http://127.0.0.1:1", missing)
    said = f"TOCSIN_FCM_CREDENTIALS: {missing} cannot be read: No such file or directory"
    assert send(parcel()) == [Away("not_configured", said)]
    for content in ("no JSON", "[]", "{}", '{"type": "service_account", "project_id": "p"}'):
        wrong.write_text(content)
        configure("http://127.0.0.1:1", wrong)
        said = f"TOCSIN_FCM_CREDENTIALS: {wrong} is not the JSON file of a service account"
        assert send(parcel()) == [Away("not_configured", said)]


def test_what_is_sent_is_in_no_log(
    provider: FakeFcm, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    provider.script = lambda *_: UNREGISTERED
    send(parcel("canary-address", title="canary-title"))
    out, err = capfd.readouterr()
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert "canary" not in out + err + "".join(logged)
