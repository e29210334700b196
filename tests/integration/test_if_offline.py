"""Who looks at the inbox gets no push "if offline": what a worker does with what the gateways said."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from redis import Redis

from pipelines.stage import Resources
from schema.delivery import Sent
from schema.wire import presence_key
from tests.integration.chain import Chain, Process, Rows, Run
from tests.integration.test_claims import Provider
from workers.circuit import Circuit

FOUND = "SELECT user_id, state, reason, attempt FROM deliveries WHERE channel = 'email' ORDER BY user_id"
SAYS = "INSERT INTO notification_preferences (user_id, scope, type, channels) VALUES (%s, 'type', 'comment', %s)"

Send = Callable[..., list[str]]


@pytest.fixture
def use(pool: Any, client: Any, catalog: Any) -> Resources:
    return Resources(pool, client, catalog, frozenset({"web", "email", "push", "fcm"}))


@pytest.fixture
def send(process: Process, use: Resources) -> Send:
    from workers.deliver import deliver

    def sent(ids: list[UUID]) -> list[str]:
        provider = Provider(*[Sent()] * len(ids))
        deliver(provider, ids, use, Circuit("email"))
        return sorted(parcel.user for parcel in provider.asked)

    return sent


@pytest.fixture
def mail(chain: Chain, run: Run) -> Callable[..., list[UUID]]:
    """mail({"ada": "if offline", …}, importance=…): deliveries by email of a comment for all of them."""

    def made(wishes: dict[str, str], **event: Any) -> list[UUID]:
        for user, rule in wishes.items():
            run("INSERT INTO users (id, email) VALUES (%s, %s)", user, f"{user}@example.com")
            run(SAYS, user, f'{{"email": {rule}}}')
        return list(chain.route({"recipients": list(wishes), **event})["email"])

    return made


def test_who_looks_gets_none_and_who_is_away_does(
    mail: Any, send: Send, rows: Rows, client: Redis, process: Process
) -> None:
    wishes = {f"u-{n}": '"if offline"' for n in range(6)} | {"always": "true"}
    ids = mail(wishes)
    for user in ("u-1", "u-4", "always"):
        client.set(presence_key(user), "some gateway")
    client.config_resetstat()
    assert send(ids) == ["always", "u-0", "u-2", "u-3", "u-5"]
    assert client.info("commandstats")["cmdstat_mget"]["calls"] == 1
    found = {row.pop("user_id"): tuple(row.values()) for row in rows(FOUND)}
    assert found["u-1"] == found["u-4"] == ("suppressed", "online", 0)
    assert found["u-0"] == found["always"] == ("sent", None, 1)


def test_a_batch_without_such_a_rule_asks_redis_nothing(mail: Any, send: Send, client: Redis) -> None:
    ids = mail({"ada": "true"})
    client.config_resetstat()
    assert send(ids) == ["ada"]
    assert "cmdstat_mget" not in client.info("commandstats")


def test_a_critical_one_is_sent_whoever_looks(mail: Any, send: Send, client: Redis, run: Run) -> None:
    ids = mail({"ada": '"if offline"'})
    run("UPDATE notifications SET importance = 'critical'")
    client.set(presence_key("ada"), "some gateway")
    assert send(ids) == ["ada"]


def test_while_redis_is_away_nobody_is_seen(mail: Any, send: Send, client: Redis, use: Resources) -> None:
    ids = mail({"ada": '"if offline"'})
    client.set(presence_key("ada"), "some gateway")
    connections = use.redis.connection_pool
    port, connections.connection_kwargs["port"] = connections.connection_kwargs["port"], 1
    connections.reset()
    try:
        assert send(ids) == ["ada"]
    finally:
        connections.connection_kwargs["port"] = port
        connections.reset()
