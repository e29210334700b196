"""What every channel promises (workers/channels/__init__.py); one that is added to CHANNELS is held to it here."""

from datetime import UTC, datetime
from types import ModuleType
from uuid import UUID

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from schema import notification
from schema.delivery import Later, Never, Outcome, Sent
from schema.wire import InboxItem, Publication
from workers.channels import CHANNELS
from workers.channels.web import Item
from workers.queues import QUEUES, delivery_queue

each_channel = pytest.mark.parametrize("channel", CHANNELS, ids=[channel.NAME for channel in CHANNELS])


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
    assert channel.NAME in notification.CHANNELS
    assert channel.__name__ == f"workers.channels.{channel.NAME}"
    assert delivery_queue(channel.NAME) in QUEUES


def test_no_two_have_one_name() -> None:
    assert len({channel.NAME for channel in CHANNELS}) == len(CHANNELS)


@each_channel
def test_its_schedule_ascends(channel: ModuleType) -> None:
    schedule = channel.SCHEDULE
    assert list(schedule) == sorted(schedule)
    assert all(seconds > 0 for seconds in schedule)
    assert 60 <= sum(schedule) <= 7 * 24 * 3600, "longer than a restart, shorter than what anybody waits for"


@each_channel
@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_it_answers_for_each_item(channel: ModuleType, count: int, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        outcomes: list[Outcome] = channel.send(items(count), client)
    assert len(outcomes) == count
    assert all(isinstance(outcome, Sent | Later | Never) for outcome in outcomes)


@each_channel
def test_a_redis_that_is_away_is_an_outcome_for_each(channel: ModuleType) -> None:
    """What a provider may do never raises."""
    nowhere = Redis(port=1, retry=Retry(NoBackoff(), 0))
    with nowhere:
        outcomes: list[Outcome] = channel.send(items(5), nowhere)
    assert len(outcomes) == 5
    assert all(isinstance(outcome, Sent | Later | Never) for outcome in outcomes)
