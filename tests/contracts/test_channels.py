"""What every channel promises (workers/channels/__init__.py); one that is added to CHANNELS is held to it here."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipelines.catalog import Catalog
from pipelines.stage import Resources
from schema import notification
from schema.delivery import Away, Later, Outcome, Parcel, Sent
from schema.wire import BATCH, InboxItem, Publication
from workers import vapid
from workers.channels import CHANNELS, fcm, web
from workers.channels.web import Item
from workers.queues import QUEUES, delivery_queue
from workers.settings import settings

Configured = Callable[..., None]
SECRET = "a sentence that only its reader may see"
PROVIDERS = ("TOCSIN_SMTP_URL", "TOCSIN_FCM_CREDENTIALS", "TOCSIN_FCM_URL", "TOCSIN_VAPID_PRIVATE_KEY")
ADDRESSES = {"email": "user{}@example.com", "fcm": "token-{}", "webpush": "https://127.0.0.1:1/{}"}
KEYS = {
    "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
    "auth": "BTBZMqHH6r4Tts7J_aSIgg",
}

each_channel = pytest.mark.parametrize("channel", CHANNELS, ids=[channel.NAME for channel in CHANNELS])
claimed = [channel for channel in CHANNELS if channel.LEASE]
each_claimed = pytest.mark.parametrize("channel", claimed, ids=[channel.NAME for channel in claimed])


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Configured]:
    """configured(TOCSIN_SMTP_URL="…"): a process with these providers and no other."""

    def configure(**variables: str) -> None:
        for name in PROVIDERS:
            monkeypatch.delenv(name, raising=False)
        given = {"TOCSIN_HOME": str(tmp_path / "nowhere"), "TOCSIN_JWT_SECRET": "secret-of-at-least-32-bytes!!!!!"}
        for name, value in (given | variables).items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()

    yield configure
    fcm.close()
    settings.cache_clear()


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """Providers where nobody listens."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "demo",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": "demo@demo.iam.gserviceaccount.com",
        "token_uri": "http://127.0.0.1:1/token",
    }
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    return {
        "TOCSIN_SMTP_URL": "smtp://127.0.0.1:1",
        "TOCSIN_FCM_CREDENTIALS": str(file),
        "TOCSIN_FCM_URL": "http://127.0.0.1:1",
        "TOCSIN_VAPID_PRIVATE_KEY": vapid.generate()[0],
        "TOCSIN_PUSH_HOSTS": "127.0.0.1:1",
    }


@pytest.fixture(scope="module")
def use() -> Resources:
    """A channel knows its provider and the templates, and neither database nor Redis."""
    nothing: Any = None
    return Resources(nothing, nothing, Catalog.load(Path(__file__).parents[2] / "templates"), frozenset())


def parcels(channel: ModuleType, count: int) -> list[Parcel]:
    return [
        Parcel(
            delivery=UUID(int=number),
            attempt=1,
            notification=UUID(int=1000 + number),
            user=f"user {number}",
            address=ADDRESSES[channel.NAME].format(number),
            device=None if channel.NAME == "email" else UUID(int=2000 + number),
            kind={"email": "", "fcm": "fcm_token", "webpush": "web_push"}[channel.NAME],
            keys=KEYS if channel.NAME == "webpush" else None,
            type="comment",
            category="social",
            importance="normal",
            title=f"{SECRET} \u2028 é",
            message=SECRET * 50,
            action_url="/posts/1",
            data={"userName": "Bob", "comment": SECRET, "postId": 1, "commentId": "c"},
            created_at=datetime(2030, 1, 1, tzinfo=UTC),
        )
        for number in range(count)
    ]


def items(count: int) -> list[Item]:
    """Several for each user, and among them some that say the same."""
    at = datetime(2030, 1, 1, tzinfo=UTC)
    return [
        Item(
            f"user {number // 4}\u2028é",
            Publication(
                "notification",
                number,
                1,
                InboxItem(
                    id=UUID(int=number),
                    seq=number // 2,
                    type="comment",
                    category="social",
                    importance="normal",
                    title="T",
                    message="M" * 1000,
                    data={},
                    action_url=None,
                    created_at=at,
                    read=False,
                ),
            ),
        )
        for number in range(count)
    ]


@each_channel
def test_its_name_is_a_channels(channel: ModuleType) -> None:
    assert channel.SERVES in notification.CHANNELS
    assert channel.__name__ == f"workers.channels.{channel.NAME}"
    assert delivery_queue(channel.NAME) in QUEUES


def test_no_two_have_one_name_and_everything_a_type_may_name_is_served() -> None:
    assert len({channel.NAME for channel in CHANNELS}) == len(CHANNELS)
    assert {channel.SERVES for channel in CHANNELS} == set(notification.CHANNELS)


@each_channel
def test_its_schedule_ascends(channel: ModuleType) -> None:
    schedule = channel.SCHEDULE
    assert list(schedule) == sorted(schedule)
    assert all(seconds > 0 for seconds in schedule)
    assert 60 <= sum(schedule) <= 7 * 24 * 3600, "longer than a restart, shorter than what anybody waits for"


@each_claimed
def test_a_batch_is_a_message_at_most_and_a_dead_process_is_noticed_soon(channel: ModuleType) -> None:
    assert 1 <= channel.BATCH <= BATCH
    assert 0 < channel.LEASE <= 30, "recovery within 30 s"


@each_claimed
def test_without_a_configuration_it_serves_nobody_and_costs_no_try(
    channel: ModuleType, configured: Configured, use: Resources
) -> None:
    configured()
    assert not channel.ready()
    outcomes = channel.send(parcels(channel, 3), use)
    assert [type(outcome) for outcome in outcomes] == [Away] * 3


@each_claimed
@pytest.mark.parametrize("count", [0, 1, 40])
def test_a_provider_that_is_not_there_is_an_outcome_for_each(
    count: int, channel: ModuleType, configured: Configured, use: Resources, nowhere: dict[str, str]
) -> None:
    """What a provider may do never raises, and nothing that was not sent counts as sent."""
    configured(**nowhere)
    assert channel.ready()
    outcomes: list[Outcome] = channel.send(parcels(channel, count), use)
    assert len(outcomes) == count
    assert all(isinstance(outcome, Away | Later) for outcome in outcomes)


@each_claimed
def test_an_outcome_tells_neither_content_nor_address(
    channel: ModuleType, configured: Configured, use: Resources, nowhere: dict[str, str], capfd: Any
) -> None:
    configured(**nowhere)
    outcomes = channel.send(parcels(channel, 2), use)
    said = repr(outcomes) + "".join(capfd.readouterr())
    assert SECRET not in said
    assert all(parcel.address not in said for parcel in parcels(channel, 2))


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_the_web_answers_for_each_item(count: int, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        outcomes = web.send(items(count), client)
    assert outcomes == [Sent()] * count


def test_a_redis_that_is_away_is_an_outcome_for_each_item() -> None:
    with Redis(port=1, retry=Retry(NoBackoff(), 0)) as nowhere:
        outcomes = web.send(items(5), nowhere)
    assert len(outcomes) == 5
    assert all(isinstance(outcome, Later) for outcome in outcomes)
