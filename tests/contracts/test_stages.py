"""What every stage promises (pipelines/stage.py); one that is added to STAGES is held to it here."""

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg
import pytest
from psycopg_pool import ConnectionPool
from redis import Redis

from pipelines import STAGES
from pipelines.accept import Accepted, address
from pipelines.catalog import Catalog
from pipelines.stage import Resources, Stage
from schema.notification import Notification
from schema.wire import Batch, read

TEMPLATES = Path(__file__).parents[2] / "templates"
CATALOG = Catalog.load(TEMPLATES)
PREFERENCES = """
INSERT INTO notification_preferences (user_id, type, enabled, channels)
VALUES ('ada', 'comment', true, '{"web": false}'),
    ('bob', 'comment', false, '{}'),
    ('bob', 'like', true, '{"email": true}'),
    ('ada', 'like', NULL, '{"web": true, "email": "digest daily"}')
"""
each_stage = pytest.mark.parametrize("stage", STAGES, ids=[stage.__name__ for stage in STAGES])


@pytest.fixture
def use(database_url: str, redis_url: str) -> Iterator[Resources]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO users (id) VALUES ('ada'), ('bob')")
        connection.execute(PREFERENCES)
    with ConnectionPool(database_url, min_size=1, max_size=4) as pool, Redis.from_url(redis_url) as client:
        yield Resources(pool, client, CATALOG, frozenset({"web"}))


def batch() -> list[Notification]:
    """Whatever may come: every type and one that is gone, each importance, users with and without a row, more of a
    type than its limit, keys, channels closed before, and some that come twice."""
    at = datetime(2030, 1, 1, tzinfo=UTC)
    events = [
        Accepted(f"{name}-{importance}-{key}", name, ["ada", "bob", "new"], importance, key, at)
        for name in [*CATALOG.types, "gone"]
        for importance in (None, "low", "critical")
        for key in (None, "a/b")
    ]
    events += [Accepted(f"many-{number}", "comment", ["cleo"], None, None, at) for number in range(15)]
    found = [n for event in events for n in address(event, CATALOG)]
    closed = [n.close({"email": "earlier"}) for n in found[::7]]
    nowhere = [n.close(dict.fromkeys(n.open, "earlier")) for n in found[3::11]]
    return [*found, *closed, *nowhere]


@each_stage
def test_it_returns_the_batch_in_order_and_whole(stage: Stage, use: Resources) -> None:
    given = batch()
    assert [n.id for n in stage(given, use)] == [n.id for n in given]
    assert [n.id for n in stage(given[::-1], use)] == [n.id for n in given[::-1]]


@each_stage
def test_it_only_ever_closes_channels(stage: Stage, use: Resources) -> None:
    given = batch()
    for before, after in zip(given, stage(given, use), strict=True):
        assert after.open == tuple(channel for channel in before.open if channel in after.open)
        assert before.closed.items() <= after.closed.items()
        assert set(after.closed) - set(before.closed) == set(before.open) - set(after.open)
        assert all(after.closed.values()), "a reason is a code, never empty"


@each_stage
def test_it_changes_nothing_else_but_window_and_timing(stage: Stage, use: Resources) -> None:
    given = batch()
    for before, after in zip(given, stage(given, use), strict=True):
        kept = msgspec.structs.replace(
            after, open=before.open, closed=before.closed, window=before.window, timing=before.timing
        )
        assert kept == before


@each_stage
def test_it_leaves_what_it_was_given_as_it_was(stage: Stage, use: Resources) -> None:
    given = batch()
    before = copy.deepcopy(given)
    stage(given, use)
    assert given == before


@each_stage
def test_it_gives_the_same_answer_when_repeated(stage: Stage, use: Resources) -> None:
    given = batch()
    first = stage(given, use)
    assert stage(given, use) == first
    assert stage(given[::-1], use) == first[::-1]


@each_stage
def test_a_batch_of_none_and_of_one(stage: Stage, use: Resources) -> None:
    assert stage([], use) == []
    assert [n.recipient for n in stage(batch()[:1], use)] == ["ada"]


@each_stage
def test_what_it_returns_survives_the_queue(stage: Stage, use: Resources) -> None:
    narrowed = stage(batch(), use)
    assert read(msgspec.json.encode(Batch(narrowed)), Batch).notifications == narrowed


def test_all_of_them_leave_something_open_and_something_closed(use: Resources) -> None:
    """The batch above is worth its name: it meets every reason."""
    given = batch()
    for stage in STAGES:
        given = stage(given, use)
    reasons = {reason for n in given for reason in n.closed.values()}
    assert reasons == {
        "earlier",
        "muted",
        "not_served",
        "preference",
        "rate_limit",
        "type_default",
        "unknown_type",
    }
    assert {channel for n in given for channel in n.open} == {"web"}
    assert {n.window for n in given if n.type == "comment"} == {"comment/", "comment/a/b"}


def test_their_names_are_unlike() -> None:
    """A stage's name is its actor's, and stands in messages."""
    names = [stage.__name__ for stage in STAGES]
    assert names == ["preferences", "rate_limits", "grouping"]
