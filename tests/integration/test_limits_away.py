"""Limits while Redis, which counts, is really stopped: high and critical go ahead uncharged, the rest waits and is
charged when Redis is back."""

import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest
from redis import Redis, RedisError
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from pipelines.rate_limits import Unasked, rate_limits
from pipelines.stage import Resources
from schema.notification import CHANNELS, Notification
from schema.wire import Batch
from tests.integration.chain import Chain, Process, Rows
from tests.integration.limited import Load, charged, new
from workers import embedded

LIMIT = '[rate_limit]\nmax = 10\nper = "1h"\n'


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Servers]:
    with embedded.start(tmp_path_factory.mktemp("valkey"), postgres=False, durable=False) as servers:
        yield servers


@pytest.fixture
def redis_url(own_servers: embedded.Servers) -> str:
    """A Valkey that these tests may stop; it runs, and is empty."""
    if own_servers.valkey and own_servers.valkey.ended() is not None:
        bring_back(own_servers)
    with Redis.from_url(own_servers.redis_url) as client:
        client.flushall()
    return own_servers.redis_url


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0)) as connected:
        yield connected


def stop(servers: embedded.Servers) -> None:
    assert servers.valkey
    servers.valkey.kill()


def bring_back(servers: embedded.Servers) -> None:
    assert servers.valkey
    servers.valkey.launch()
    with Redis.from_url(servers.redis_url, retry=Retry(ConstantBackoff(0.02), 500)) as client:
        client.ping()


def outcome(batch: list[Notification], use: Resources) -> tuple[list[Notification], list[Notification]]:
    """What goes ahead, and what waits."""
    try:
        return rate_limits(batch, use), []
    except Unasked as away:
        return away.passing, away.waiting
    except RedisError:
        return [], batch


@pytest.mark.parametrize(
    ("importance", "limit", "passes"),
    [
        ("critical", LIMIT, True),
        ("high", LIMIT, True),
        ("normal", LIMIT, False),
        ("low", LIMIT, False),
        ("low", "", True),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_who_waits_for_redis(
    importance: str, limit: str, passes: bool, alone: bool, limited: Load, own_servers: embedded.Servers
) -> None:
    use = limited(comment=limit, like=LIMIT)
    mine = new("comment", importance=importance)
    others = [] if alone else [new("like", importance="high"), new("like", importance="low")]
    stop(own_servers)
    passing, waiting = outcome([mine, *others], use)
    assert (mine in passing, mine in waiting) == (passes, not passes)
    assert [n for n in others if n in waiting] == others[1:]
    assert all(n.open == CHANNELS and not n.closed for n in [*passing, *waiting])


def test_what_goes_nowhere_does_not_wait(limited: Load, own_servers: embedded.Servers) -> None:
    use = limited(comment=LIMIT)
    closed = new().close(dict.fromkeys(CHANNELS, "muted"))
    stop(own_servers)
    assert outcome([closed], use) == ([closed], [])


def test_the_chain_writes_what_is_urgent_now_and_the_rest_when_redis_is_back(
    process: Process,
    chain: Chain,
    rows: Rows,
    own_servers: embedded.Servers,
    client: Redis,
    eventually: Callable[..., object],
) -> None:
    from workers.chain import chain as hop

    batch = chain.address(
        {"id": "high", "importance": "high"}, {"id": "normal"}, {"id": "critical", "importance": "critical"}
    )

    def written() -> list[str]:
        return [
            row["event_id"]
            for row in rows("SELECT event_id FROM notifications WHERE event_id IS NOT NULL ORDER BY 1")
        ]

    stop(own_servers)
    worker = threading.Thread(target=hop, args=(msgspec.Raw(msgspec.json.encode(Batch(batch))),), daemon=True)
    worker.start()
    eventually(lambda: written() == ["critical", "high"], 20)
    assert worker.is_alive()
    bring_back(own_servers)
    worker.join(30)
    assert not worker.is_alive()
    assert written() == ["critical", "high", "normal"]
    assert charged(client) == {"comment:ada": 1}
    sent = [id_ for message in process.queued("deliver-web") for id_ in message["deliveries"]]
    assert sorted(sent) == sorted(str(row["id"]) for row in rows("SELECT id FROM deliveries"))
    hop(msgspec.Raw(msgspec.json.encode(Batch(batch))))
    assert charged(client) == {"comment:ada": 2}, "again: the urgent one is charged, and nothing is written"
    assert written() == ["critical", "high", "normal"]
