"""Rate limits on a real Valkey: exact for any number of processes, each notification charged once."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
from psycopg_pool import ConnectionPool
from redis import Redis

from pipelines.accept import Accepted, address
from pipelines.catalog import Catalog
from pipelines.rate_limits import rate_limits
from pipelines.stage import Resources
from schema.notification import CHANNELS, Notification
from tests.integration.chain import TEMPLATES, at_once

ADA = "tocsin:limit:comment:ada"
HOUR = 3600 * 1_000_000
"""In microseconds, as the scores are."""
numbers = count()


@pytest.fixture
def use(client: Redis, catalog: Catalog) -> Resources:
    """Without a database: this stage asks Redis alone."""
    return Resources(ConnectionPool(open=False), client, catalog, frozenset({"web"}))


@pytest.fixture
def new(catalog: Catalog) -> Any:
    """new(type="like", …): a notification of its own, for ada and normal unless said otherwise."""

    def made(type: str = "comment", user: str = "ada", importance: str | None = None) -> Notification:
        event = Accepted(f"c-{next(numbers)}", type, [user], importance, None, datetime.now(UTC))
        return address(event, catalog)[0]

    return made


def passes(batch: list[Notification], use: Resources) -> list[bool]:
    """Which of the batch are within the limit; the others are closed, all channels, for that reason alone."""
    narrowed = rate_limits(batch, use)
    assert [n.id for n in narrowed] == [n.id for n in batch]
    for n in narrowed:
        assert n.open == CHANNELS or (n.open, n.closed) == ((), dict.fromkeys(CHANNELS, "rate_limit"))
    return [bool(n.open) for n in narrowed]


def charged(client: Redis, name: str = ADA) -> list[tuple[bytes, float]]:
    return cast("list[tuple[bytes, float]]", client.zrange(name, 0, -1, withscores=True))


def age(client: Redis, ids: list[Notification], microseconds: int) -> None:
    """As if these had been charged so much earlier."""
    for n in ids:
        client.zincrby(ADA, -microseconds, str(n.id))


def test_ten_an_hour_and_no_more(use: Resources, new: Any, client: Redis) -> None:
    assert passes([new() for _ in range(12)], use) == [True] * 10 + [False] * 2
    assert passes([new()], use) == [False]
    assert len(charged(client)) == 10


def test_of_a_hundred_at_once_exactly_ten_pass(use: Resources, new: Any, client: Redis) -> None:
    batches = [[new()] for _ in range(100)]
    answers = at_once(100, lambda number: passes(batches[number], use))
    assert sum(within for (within,) in answers) == 10
    assert len(charged(client)) == 10


def test_a_repeat_is_not_charged_twice(use: Resources, new: Any, client: Redis) -> None:
    batch = [new() for _ in range(9)]
    assert passes(batch, use) == [True] * 9
    before = charged(client)
    for _ in range(3):
        assert passes(batch, use) == [True] * 9
        assert passes(batch[::-1], use) == [True] * 9
    assert charged(client) == before
    late = new()
    assert passes([late, late, new()], use) == [True, True, False]
    assert len(charged(client)) == 10


def test_what_passed_passes_again_when_the_limit_is_reached(use: Resources, new: Any) -> None:
    batch = [new() for _ in range(12)]
    assert passes(batch, use) == [True] * 10 + [False] * 2
    assert passes(batch, use) == [True] * 10 + [False] * 2
    assert passes(batch[10:] + batch[:10], use) == [False] * 2 + [True] * 10


def test_the_same_batch_at_once_has_one_answer(use: Resources, new: Any, client: Redis) -> None:
    batch = [new() for _ in range(12)]
    answers = at_once(8, lambda _: passes(batch, use))
    assert answers == [[True] * 10 + [False] * 2] * 8
    assert len(charged(client)) == 10


def test_the_window_slides(use: Resources, new: Any, client: Redis) -> None:
    """Room comes back for each as it turns an hour old, not for all at the full hour."""
    batch = [new() for _ in range(10)]
    assert passes(batch, use) == [True] * 10
    age(client, batch[:3], HOUR)
    age(client, batch[3:], HOUR - 60_000_000)
    assert passes([new() for _ in range(5)], use) == [True] * 3 + [False] * 2
    age(client, batch[3:], 60_000_000)
    assert passes([new() for _ in range(9)], use) == [True] * 7 + [False] * 2
    assert len(charged(client)) == 10


def test_what_is_forgotten_is_not_kept(use: Resources, new: Any, client: Redis) -> None:
    """The key goes when its youngest is over; until then it holds no more than the limit."""
    passes([new() for _ in range(20)], use)
    left = cast(int, client.pttl(ADA))
    assert 3_500_000 < left <= 3_600_000
    assert cast(int, client.zcard(ADA)) == 10


def test_users_and_types_are_counted_apart(use: Resources, new: Any, client: Redis) -> None:
    batch = [new(type, user) for type in ("comment", "like") for user in ("ada", "bob") for _ in range(11)]
    assert passes(batch, use) == ([True] * 10 + [False]) * 4
    assert sorted(cast("list[bytes]", client.keys("tocsin:limit:*"))) == sorted(
        f"tocsin:limit:{type}:{user}".encode() for type in ("comment", "like") for user in ("ada", "bob")
    )


def test_a_critical_one_passes_and_costs_nothing(use: Resources, new: Any, client: Redis) -> None:
    assert passes([new(importance="critical") for _ in range(20)], use) == [True] * 20
    assert client.keys("tocsin:limit:*") == []
    assert passes([new() for _ in range(10)], use) == [True] * 10
    assert passes([new(importance="critical"), new()], use) == [True, False]


def test_what_goes_nowhere_costs_nothing(use: Resources, new: Any, client: Redis) -> None:
    closed = [new().close(dict.fromkeys(CHANNELS, "muted")) for _ in range(20)]
    assert rate_limits(closed, use) == closed
    assert client.keys("tocsin:limit:*") == []
    assert passes([new() for _ in range(10)], use) == [True] * 10


def test_what_is_partly_closed_is_charged_and_keeps_its_reasons(use: Resources, new: Any) -> None:
    batch = [new().close({"email": "type_default", "push": "not_served"}) for _ in range(11)]
    *within, over = rate_limits(batch, use)
    assert within == batch[:10]
    assert over.open == ()
    assert over.closed == {"email": "type_default", "push": "not_served", "web": "rate_limit"}


def test_a_type_without_a_limit_is_not_counted(use: Resources, new: Any, client: Redis, tmp_path: Path) -> None:
    templates(tmp_path, '[rate_limit]\nmax = 10\nper = "1h"\n', "")
    changed = replace(use, catalog=Catalog.load(tmp_path / "templates"))
    assert passes([new() for _ in range(20)], changed) == [True] * 20
    assert client.keys("tocsin:limit:*") == []


def test_a_type_that_is_gone_is_not_counted(use: Resources, new: Any, client: Redis, tmp_path: Path) -> None:
    batch = [new() for _ in range(20)]
    templates(tmp_path, "", "")
    shutil.rmtree(tmp_path / "templates" / "comment")
    assert passes(batch, replace(use, catalog=Catalog.load(tmp_path / "templates"))) == [True] * 20
    assert client.keys("tocsin:limit:*") == []


@pytest.mark.parametrize(("most", "per", "microseconds"), [(1, "90s", 90_000_000), (25, "365d", 365 * 24 * HOUR)])
def test_the_type_says_how_many(
    most: int, per: str, microseconds: int, use: Resources, new: Any, client: Redis, tmp_path: Path
) -> None:
    templates(tmp_path, 'max = 10\nper = "1h"', f'max = {most}\nper = "{per}"')
    changed = replace(use, catalog=Catalog.load(tmp_path / "templates"))
    batch = [new() for _ in range(30)]
    assert sum(passes(batch, changed)) == most
    age(client, batch[:most], microseconds)
    assert sum(passes([new() for _ in range(30)], changed)) == most


def templates(folder: Path, old: str, new: str) -> None:
    """A copy of the templates in `folder`, with this changed in the comments' type.toml."""
    shutil.copytree(TEMPLATES, folder / "templates")
    file = folder / "templates" / "comment" / "type.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_server_that_forgot_the_script_learns_it_again(use: Resources, new: Any, client: Redis) -> None:
    """Restarted, or emptied: no batch is lost."""
    assert passes([new()], use) == [True]
    client.script_flush()
    assert passes([new()], use) == [True]
    assert len(charged(client)) == 2


def test_a_batch_is_one_command(use: Resources, new: Any, client: Redis) -> None:
    rate_limits([new()], use)
    client.config_resetstat()
    rate_limits([new(user=f"u-{number}") for number in range(500)], use)
    stats = cast("dict[str, dict[str, int]]", client.info("commandstats"))
    assert stats["cmdstat_evalsha"]["calls"] == 1
    client.config_resetstat()
    rate_limits([new(importance="critical")], use)
    assert not any("eval" in name for name in cast("dict[str, Any]", client.info("commandstats")))
