"""`GET /v1/users/{id}/quota`: what is left of each limit, exact at any moment, and never charged by looking."""

from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from pipelines.quota import Quota, quotas
from pipelines.rate_limits import rate_limits
from pipelines.stage import Resources
from schema.identity import text
from tests.integration.limited import Load, new

pytest_plugins = ["tests.integration.fleet"]

LIMITS = {
    "comment": '[rate_limit]\nmax = 3\nper = "1h"\nchannels.email = {max = 1, per = "1d"}\n',
    "user": '[user]\nmax = 5\nper = "1d"\nchannels.push = {max = 2, per = "90s"}\n',
}
HOUR = 3_600_000_000
"""In microseconds."""
DATA = {"userName": "Bob", "comment": "Great post!", "postId": "p-1", "commentId": "c-1"}


@pytest.fixture
def use(limited: Load) -> Resources:
    return limited(**LIMITS)


def left(use: Resources, user: str = "ada") -> dict[tuple[str | None, str | None], tuple[int, int]]:
    """By type and channel: used, remaining."""
    found = quotas(use.redis, use.catalog, user)
    assert all(q.used + q.remaining == q.max for q in found)
    return {(q.type, q.channel): (q.used, q.remaining) for q in found}


def comments(use: Resources) -> Quota:
    (found,) = [q for q in quotas(use.redis, use.catalog, "ada") if (q.type, q.channel) == ("comment", None)]
    return found


def test_whom_nobody_notified_has_everything_left(use: Resources) -> None:
    assert [
        (q.type, q.channel, q.max, q.per, q.used, q.remaining, q.resets_at)
        for q in quotas(use.redis, use.catalog, "ada")
    ] == [
        (None, None, 5, 86_400, 0, 5, None),
        (None, "push", 2, 90, 0, 2, None),
        ("comment", None, 3, 3600, 0, 3, None),
        ("comment", "email", 1, 86_400, 0, 1, None),
    ]


def test_each_limit_says_what_was_charged_to_it(use: Resources) -> None:
    rate_limits([new(), new(), new("like"), new(user="bob"), new(importance="critical")], use)
    assert left(use) == {
        (None, None): (3, 2),
        (None, "push"): (2, 0),
        ("comment", None): (2, 1),
        ("comment", "email"): (1, 0),
    }


def test_looking_changes_nothing(use: Resources, client: Redis) -> None:
    rate_limits([new() for _ in range(5)], use)
    seen = {key: client.zrange(key, 0, -1, withscores=True) for key in client.keys("tocsin:limit:*")}
    first = quotas(use.redis, use.catalog, "ada")
    assert all(quotas(use.redis, use.catalog, "ada") == first for _ in range(3))
    assert quotas(use.redis, use.catalog, "nobody")
    assert {key: client.zrange(key, 0, -1, withscores=True) for key in client.keys("tocsin:limit:*")} == seen


def test_room_comes_back_when_the_oldest_leaves_the_window(use: Resources, client: Redis) -> None:
    first, second = new(), new()
    rate_limits([first, second], use)
    client.zincrby("tocsin:limit:comment:ada", -HOUR // 2, text(first.id))
    resets_at = comments(use).resets_at
    assert resets_at
    assert timedelta(minutes=29) < resets_at - datetime.now(UTC) <= timedelta(minutes=30)
    client.zincrby("tocsin:limit:comment:ada", -HOUR // 2, text(first.id))
    found = comments(use)
    assert (found.used, found.remaining) == (1, 2)
    assert found.resets_at
    assert found.resets_at - datetime.now(UTC) > timedelta(minutes=59)


def test_a_limit_that_was_lowered_has_nothing_left_until_enough_have_gone(
    limited: Load, client: Redis, use: Resources
) -> None:
    batch = [new() for _ in range(3)]
    rate_limits(batch, use)
    for age, n in enumerate(batch):
        client.zincrby("tocsin:limit:comment:ada", -(10 + age) * 60_000_000, text(n.id))
    found = comments(limited(comment='[rate_limit]\nmax = 1\nper = "1h"\n'))
    assert (found.used, found.remaining) == (3, 0)
    assert found.resets_at
    assert timedelta(minutes=49) < found.resets_at - datetime.now(UTC) <= timedelta(minutes=50)


def test_where_nothing_is_limited_there_is_nothing_to_tell(limited: Load) -> None:
    use = limited()
    assert quotas(use.redis, use.catalog, "ada") == []


def test_over_http(api, name):
    answer = api.client.get(f"/v1/users/{name}/quota")
    assert answer.status_code == 200
    limits = answer.json()["limits"]
    assert {limit["type"] for limit in limits} >= {"comment", "payment"}
    expected = {"channel": None, "max": 10, "per": 3600, "used": 0, "remaining": 10, "resets_at": None}
    assert {"type": "comment"} | expected in limits


@pytest.mark.parametrize(("headers", "status"), [({"authorization": "Bearer wrong"}, 401), ({}, 200)])
def test_it_needs_a_key(headers, status, api, name):
    assert api.client.get(f"/v1/users/{name}/quota", headers=headers).status_code == status


def test_an_id_with_control_characters_is_nobody_s(api):
    assert api.client.get("/v1/users/a%0Ab/quota").status_code == 404
