"""What is told by email or push only if it stays unread: held until then, and stopped by reading it anywhere."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from pipelines.catalog import Catalog
from pipelines.stage import Resources
from tests.integration.chain import Chain, Process, Rows, Run
from tests.integration.timed import SAID, Provider, folders, ids, time_comes
from workers.circuit import Circuit
from workers.gateway.changes import Changes
from workers.settings import Settings

Send = Callable[[Provider], None]
Change = Callable[..., int]

BY_MAIL = "SELECT state, reason FROM deliveries WHERE channel = 'email' ORDER BY id"
HELD = "SELECT id FROM deliveries WHERE state = 'held'"


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.load(folders(tmp_path_factory.mktemp("timed")))


@pytest.fixture
def use(pool: ConnectionPool, client: Redis, templates: Catalog, run: Run) -> Resources:
    run("INSERT INTO users (id, email) VALUES ('ada', 'ada@example.com')")
    return Resources(pool, client, templates, frozenset({"web", "email"}))


@pytest.fixture
def send(process: Process, use: Resources, rows: Rows) -> Send:
    """send(provider): what a worker does with a message of all that is held."""
    from workers.deliver import deliver

    return lambda provider: deliver(provider, ids(rows(HELD)), use, Circuit("email"))


@pytest.fixture
def change(settings: Settings) -> Change:
    """change("read", id), change("read_all"): what the user does in a browser."""

    async def changed(verb: str, id_: UUID | None) -> int:
        async with (
            AsyncConnectionPool(settings.database_url, open=False, kwargs={"autocommit": True}) as pool,
            AsyncRedis.from_url(settings.redis_url) as redis,
        ):
            changes = Changes(pool, redis)
            return await changes.change("ada", id_, verb) if id_ else await changes.read_all("ada")  # type: ignore[arg-type]

    return lambda verb, id_=None: asyncio.run(changed(verb, id_))


def tell(chain: Chain, *words: str, type: str = "nudge", **event: object) -> list[dict[str, Any]]:
    return [
        chain.route({"type": type, "recipients": ["ada"], "data": SAID | {"comment": word}} | event)
        for word in words
    ]


def test_it_is_told_when_it_stayed_unread(chain: Chain, send: Send, rows: Rows, run: Run) -> None:
    (routed,) = tell(chain, "A")
    assert list(routed) == ["web"]
    (held,) = rows(
        "SELECT state, reason, next_attempt_at - created_at AS wait FROM deliveries WHERE state = 'held'"
    )
    assert (held["state"], held["reason"]) == ("held", "unread")
    assert timedelta(minutes=14, seconds=30) < held["wait"] <= timedelta(minutes=15, seconds=30)
    time_comes(run)
    provider = Provider()
    send(provider)
    assert [(one.title, one.digest) for one in provider.asked] == [("A from Bob", None)]
    assert rows(BY_MAIL) == [{"state": "sent", "reason": None}]


def test_the_clock_sends_it_when_its_time_has_come_and_not_before(
    chain: Chain, process: Process, rows: Rows, run: Run
) -> None:
    from workers import clock

    tell(chain, "A", "B")
    waiting = ids(rows(HELD))
    assert clock.send_due_deliveries() == 0
    run("UPDATE deliveries SET next_attempt_at = now() WHERE id = %s", waiting[0])
    assert clock.send_due_deliveries() == 1
    assert [message["deliveries"] for message in process.queued("deliver-email")] == [[str(waiting[0])]]
    assert clock.send_due_deliveries() == 0
    assert len(rows(HELD)) == 2


@pytest.mark.parametrize("verb", ["read", "clicked", "archive", "read_all"])
def test_reading_it_anywhere_stops_it(
    verb: str, chain: Chain, send: Send, change: Change, rows: Rows, run: Run
) -> None:
    tell(chain, "A")
    (shown,) = rows("SELECT id FROM notifications")
    change(verb, None if verb == "read_all" else shown["id"])
    time_comes(run)
    provider = Provider()
    send(provider)
    assert provider.asked == []
    assert rows(BY_MAIL) == [{"state": "suppressed", "reason": "read"}]
    assert rows("SELECT * FROM attempts") == []


def test_reading_the_group_stops_its_members(
    chain: Chain, send: Send, change: Change, rows: Rows, run: Run
) -> None:
    tell(chain, "A", "B", type="gathered")
    (group,) = rows("SELECT id FROM notifications WHERE group_count IS NOT NULL")
    change("read", group["id"])
    time_comes(run)
    provider = Provider()
    send(provider)
    assert provider.asked == []
    assert {(row["state"], row["reason"]) for row in rows(BY_MAIL)} == {("suppressed", "read")}


def test_a_critical_one_is_never_held(chain: Chain, rows: Rows) -> None:
    (routed,) = tell(chain, "A", importance="critical")
    assert len(routed["email"]) == 1
    assert rows(BY_MAIL) == [{"state": "pending", "reason": None}]


def test_what_cannot_be_rendered_is_not_held(chain: Chain, templates: Catalog, rows: Rows, run: Run) -> None:
    from pipelines.fan_out import fan_out

    batch = chain.ready({"type": "nudge", "data": SAID, "id": "n-1"})
    run("""UPDATE events SET data = '{"comment": "no name"}'""")
    assert fan_out(batch, chain.use) == {}
    assert rows(BY_MAIL) == [{"state": "failed", "reason": "unrenderable"}]


def test_the_timeline_and_the_trace_say_what_it_waits_for_and_where_it_went(
    chain: Chain, send: Send, use: Resources, rows: Rows, run: Run
) -> None:
    from workers import timeline
    from workers.trace_cli import told

    chain.route({"id": "e-1", "type": "note", "data": SAID}, {"id": "e-2", "type": "note", "data": SAID})

    def traced(event: str) -> tuple[timeline.DeliveryTimeline, str]:
        with use.pool.connection() as connection:
            found = timeline.of_event(connection, event)
        assert found
        (notification,) = found.notifications
        (by_mail,) = (one for one in notification.deliveries if one.channel == "email")
        return by_mail, "; ".join(what for _, channel, what, _ in told(notification) if channel == "email")

    waiting, says = traced("e-1")
    assert (waiting.state, waiting.reason, waiting.digest_id) == ("held", "digest", None)
    assert waiting.next_attempt_at
    assert says == "held: digest; looked at again"
    time_comes(run)
    provider = Provider()
    send(provider)
    (carrier,) = provider.asked
    both = {one.id: (one, says) for one, says in (traced("e-1"), traced("e-2"))}
    sent, says = both.pop(carrier.delivery)
    assert (sent.state, sent.digest_id) == ("sent", sent.id)
    assert sent.digest_event in ("e-1", "e-2")
    assert says.endswith("sent, as a digest")
    ((other, says),) = both.values()
    assert (other.state, other.digest_id, other.next_attempt_at) == ("digested", sent.id, None)
    assert other.digest_event == sent.digest_event
    assert says == f"digested, with event {sent.digest_event}"
