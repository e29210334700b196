"""Deliveries on real servers: sent once, settled once, and what becomes of those that could not be sent."""

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from redis import Redis

from pipelines.catalog import Catalog
from pipelines.fan_out import fan_out
from schema.delivery import Later, Never, Outcome, Sent
from schema.wire import Publication, user_channel
from tests.integration.chain import CONTENT, TEMPLATES, Chain, Process, Rows, Run, at_once

Deliver = Callable[..., None]
Dump = Callable[[], dict[str, list[str]]]
Published = Callable[[], list[Publication]]

STATES = "SELECT state, reason, attempt, settled_at IS NOT NULL AS settled, receipt FROM deliveries ORDER BY id"
ATTEMPTS = "SELECT number, outcome, reason FROM attempts ORDER BY delivery_id, number"
COUNTED = "SELECT type, event, sum(count)::int AS count FROM notification_analytics GROUP BY 1, 2 ORDER BY 1"
DONE = {"state": "sent", "reason": None, "attempt": 1, "settled": True, "receipt": None}


@pytest.fixture
def deliver(process: Process) -> Deliver:
    """deliver(ids, channel=web): what a worker does with a message of these deliveries."""
    from workers.channels import web
    from workers.deliver import deliver
    from workers.resources import resources

    return lambda ids, channel=web: deliver(channel, ids, resources())


@pytest.fixture
def published(client: Redis) -> Iterator[Published]:
    """What ada's gateways were told since the last call."""
    heard = client.pubsub(ignore_subscribe_messages=True)
    heard.subscribe(user_channel("ada"))
    heard.get_message(ignore_subscribe_messages=False, timeout=5)

    def since() -> list[Publication]:
        mark = uuid4().hex
        client.publish(user_channel("ada"), mark)
        found = []
        while (message := heard.get_message(timeout=5)) is None or message["data"] != mark.encode():
            if message:
                found.append(msgspec.json.decode(message["data"], type=Publication))
        return found

    yield since
    heard.close()


class Answers(ModuleType):
    """A channel whose provider gives these answers, one after the other; `asked` counts the items it was given."""

    NAME = "web"
    LEASE = 0
    SCHEDULE: tuple[float, ...] = (10, 100)

    def __init__(self, *answers: Outcome, meanwhile: Callable[[], object] = lambda: None) -> None:
        super().__init__("answers")
        self.answers = list(answers)
        self.asked = 0
        self.meanwhile = meanwhile

    def send(self, items: Sequence[object], redis: Redis) -> list[Outcome]:
        self.asked += len(items)
        self.meanwhile()
        return [self.answers.pop(0) for _ in items]


@contextlib.contextmanager
def away() -> Iterator[None]:
    """Redis does not answer this process."""
    from workers.resources import redis_client

    pool = redis_client().connection_pool
    port, pool.connection_kwargs["port"] = pool.connection_kwargs["port"], 1
    pool.disconnect()
    try:
        yield
    finally:
        pool.connection_kwargs["port"] = port
        pool.reset()


def test_what_was_sent_is_settled_once(chain: Chain, deliver: Deliver, rows: Rows, published: Published) -> None:
    ids = chain.route({"id": "c-1", "actor": "bob"})["web"]
    deliver(ids)
    assert rows(STATES) == [DONE]
    assert rows(ATTEMPTS) == []
    assert rows(COUNTED) == [{"type": "comment", "event": "sent", "count": 1}]
    (told,) = published()
    (shown,) = rows("SELECT * FROM notifications")
    assert (told.kind, told.version, told.unread, told.ids) == ("notification", 1, 1, None)
    assert told.item is not None
    assert (told.item.id, told.item.seq, told.item.created_at) == (shown["id"], 1, shown["created_at"])
    assert (told.item.type, told.item.category, told.item.importance) == ("comment", "social", "normal")
    assert (told.item.title, told.item.message) == ("New comment from Bob", "Hi")
    assert (told.item.action_url, told.item.data) == ("/posts/1#comment-c", CONTENT)
    assert (told.item.read, told.item.read_at, told.item.group) == (False, None, None)


def test_a_message_that_comes_again_changes_nothing(
    chain: Chain, deliver: Deliver, dump: Dump, published: Published
) -> None:
    ids = chain.route({}, {"recipients": ["ada", "bob"]})["web"]
    deliver(ids)
    assert len(published()) == 2
    before = dump()
    deliver(ids)
    deliver([*ids, *ids][::-1])
    deliver([])
    deliver([uuid4()])
    assert dump() == before
    assert published() == []


def test_eight_workers_with_the_same_message_settle_it_once(chain: Chain, deliver: Deliver, rows: Rows) -> None:
    ids = chain.route(*({"recipients": [f"u-{n % 7}"]} for n in range(50)))["web"]
    at_once(8, lambda _: deliver(ids))
    assert rows(STATES) == [DONE] * 50
    assert rows(ATTEMPTS) == []
    assert rows(COUNTED) == [{"type": "comment", "event": "sent", "count": 50}]


def test_every_type_is_counted(chain: Chain, deliver: Deliver, rows: Rows) -> None:
    types = ["like", "like", "order", "comment", "like"]
    events = [{"type": name, "data": chain.use.catalog.samples[name]} for name in types]
    deliver(chain.route(*events)["web"])
    assert [(row["type"], row["count"]) for row in rows(COUNTED)] == [("comment", 1), ("like", 3), ("order", 1)]


def test_a_group_is_told_once_and_each_member_is_sent(
    chain: Chain, deliver: Deliver, rows: Rows, published: Published
) -> None:
    ids = chain.route(*({} for _ in range(5)))["web"]
    deliver(ids)
    (told,) = published()
    assert told.item is not None
    assert told.item.group is not None
    (group,) = rows('SELECT id, seq, "leading" FROM notifications WHERE group_count IS NOT NULL')
    assert (told.item.id, told.item.seq, told.unread) == (group["id"], group["seq"], 1)
    assert (told.item.title, told.item.group.count) == ("Bob commented 5 times on your posts", 5)
    assert told.item.group.leading == group["leading"]
    assert rows(STATES) == [DONE] * 5
    assert rows(COUNTED)[0]["count"] == 5


def test_a_receipt_is_kept(chain: Chain, deliver: Deliver, rows: Rows) -> None:
    deliver(chain.route({})["web"], Answers(Sent("provider's own id")))
    assert rows(STATES) == [DONE | {"receipt": "provider's own id"}]


def test_a_refusal_is_final(chain: Chain, deliver: Deliver, rows: Rows) -> None:
    channel = Answers(Never("no such user"))
    ids = chain.route({})["web"]
    deliver(ids, channel)
    deliver(ids, channel)
    assert channel.asked == 1
    assert rows(STATES) == [DONE | {"state": "failed", "reason": "no such user"}]
    assert rows(ATTEMPTS) == [{"number": 1, "outcome": "failed", "reason": "no such user"}]
    assert rows(COUNTED) == []


def test_each_of_a_batch_has_its_own_outcome(chain: Chain, deliver: Deliver, rows: Rows) -> None:
    ids = chain.route(*({"recipients": [f"u-{n}"]} for n in range(4)))["web"]
    deliver(ids, Answers(Sent(), Later("slow"), Never("bad"), Sent("r")))
    found = rows("SELECT user_id, state, reason, receipt, settled_at IS NULL AS open FROM deliveries ORDER BY 1")
    assert [tuple(row.values()) for row in found] == [
        ("u-0", "sent", None, None, False),
        ("u-1", "retrying", "slow", None, True),
        ("u-2", "failed", "bad", None, False),
        ("u-3", "sent", None, "r", False),
    ]
    assert [row["outcome"] for row in rows("SELECT outcome FROM attempts ORDER BY 1")] == ["failed", "retrying"]
    assert rows(COUNTED)[0]["count"] == 2


def test_while_redis_is_away_it_waits_in_the_schedule(
    chain: Chain, deliver: Deliver, rows: Rows, published: Published
) -> None:
    from workers.channels import web

    ids = chain.route(*({"recipients": [f"u-{n}"]} for n in range(60)), {})["web"]
    for tried in (1, 2):
        with away():
            deliver(ids)
        found = rows(
            """SELECT d.state, d.reason, attempt, settled_at, next_attempt_at - a.ended_at AS wait
            FROM deliveries d JOIN attempts a ON a.delivery_id = d.id AND a.number = d.attempt"""
        )
        assert {row["state"] for row in found} == {"retrying"}
        assert {row["attempt"] for row in found} == {tried}
        assert {row["settled_at"] for row in found} == {None}
        assert all(row["reason"].endswith("Error") for row in found)
        waits = [row["wait"] / timedelta(seconds=web.SCHEDULE[tried - 1]) for row in found]
        assert len(waits) == 61
        assert 0.79 < min(waits) < 0.95 < 1.05 < max(waits) < 1.21
    assert rows("SELECT number, count(*)::int AS n FROM attempts GROUP BY 1 ORDER BY 1") == [
        {"number": 1, "n": 61},
        {"number": 2, "n": 61},
    ]
    assert published() == []
    assert rows(COUNTED) == []
    deliver(ids)
    assert rows(STATES) == [DONE | {"attempt": 3}] * 61
    assert len(published()) == 1
    assert rows(COUNTED)[0]["count"] == 61


def test_a_schedule_that_is_spent_ends_in_dead(chain: Chain, deliver: Deliver, rows: Rows, run: Run) -> None:
    channel = Answers(Later("a"), Later("b"), Later("c"))
    ids = chain.route({})["web"]
    for state in ("retrying", "retrying", "dead", "dead"):
        deliver(ids, channel)
        assert [row["state"] for row in rows(STATES)] == [state]
    assert channel.asked == 3
    assert rows(STATES) == [{"state": "dead", "reason": "c", "attempt": 3, "settled": True, "receipt": None}]
    assert rows(ATTEMPTS) == [
        {"number": 1, "outcome": "retrying", "reason": "a"},
        {"number": 2, "outcome": "retrying", "reason": "b"},
        {"number": 3, "outcome": "dead", "reason": "c"},
    ]
    assert rows(COUNTED) == []


def test_the_web_channels_schedule_ends_as_well(chain: Chain, deliver: Deliver, rows: Rows, run: Run) -> None:
    from workers.channels import web

    ids = chain.route({})["web"]
    run("UPDATE deliveries SET state = 'retrying', attempt = %s", len(web.SCHEDULE))
    with away():
        deliver(ids)
    assert [(row["state"], row["settled"]) for row in rows(STATES)] == [("dead", True)]


@pytest.mark.parametrize(
    ("first", "second", "state", "tries"),
    [
        (Sent(), Later("slow"), {"state": "sent", "reason": None}, 0),
        (Sent(), Never("bad"), {"state": "sent", "reason": None}, 0),
        (Never("bad"), Sent(), {"state": "failed", "reason": "bad"}, 1),
        (Later("first"), Later("second"), {"state": "retrying", "reason": "first"}, 1),
        (Later("first"), Never("second"), {"state": "retrying", "reason": "first"}, 1),
        (Sent(), Sent("second"), {"state": "sent", "receipt": None}, 0),
    ],
)
def test_a_worker_that_comes_second_settles_nothing(
    first: Outcome,
    second: Outcome,
    state: dict[str, Any],
    tries: int,
    chain: Chain,
    deliver: Deliver,
    rows: Rows,
) -> None:
    """While it sends, another takes the same delivery and is done with it: fenced by the attempt number."""
    ids = chain.route({})["web"]
    slow = Answers(second, meanwhile=lambda: deliver(ids, Answers(first)))
    deliver(ids, slow)
    (found,) = rows(STATES)
    assert found["attempt"] == 1
    assert found.items() >= state.items()
    assert len(rows(ATTEMPTS)) == tries
    assert sum(row["count"] for row in rows(COUNTED)) == isinstance(first, Sent)


def test_what_could_not_be_rendered_is_never_sent(
    chain: Chain, deliver: Deliver, rows: Rows, dump: Dump, tmp_path: Path
) -> None:
    broken = tmp_path / "templates"
    shutil.copytree(TEMPLATES, broken)
    (broken / "comment" / "message.txt.j2").write_text("{{ 10 // data.comment | length }}")
    batch = chain.ready({"id": "1"})
    with chain.use.pool.connection() as connection:
        connection.execute("""UPDATE events SET data = data || '{"comment": ""}'""")
    assert fan_out(batch, replace(chain.use, catalog=Catalog.load(broken))) == {}
    (failed,) = rows("SELECT id, state, reason, settled_at FROM deliveries")
    assert (failed["state"], failed["reason"]) == ("failed", "unrenderable")
    assert failed["settled_at"] is not None
    before = dump()
    channel = Answers()
    deliver([failed["id"]], channel)
    assert (channel.asked, dump()) == (0, before)


def test_no_connection_is_held_while_the_channel_sends(chain: Chain, deliver: Deliver) -> None:
    from workers.resources import pool

    free: list[bool] = []
    ids = chain.route({})["web"]

    def look() -> None:
        stats = pool().get_stats()
        free.append(stats["pool_available"] == stats["pool_size"])

    deliver(ids, Answers(Sent(), meanwhile=look))
    assert free == [True]


def test_what_was_read_meanwhile_is_told_as_read(
    chain: Chain, deliver: Deliver, run: Run, published: Published
) -> None:
    ids = chain.route({})["web"]
    run("UPDATE notifications SET read_at = now()")
    run("UPDATE inboxes SET unread = 0, version = 2")
    deliver(ids)
    (told,) = published()
    assert told.item is not None
    assert (told.item.read, told.unread, told.version) == (True, 0, 2)
    assert told.item.read_at is not None


def test_messages_hold_five_hundred_at_most(process: Process) -> None:
    from workers.deliver import send_deliveries

    ids = [uuid4() for _ in range(1001)]
    send_deliveries("web", ids)
    send_deliveries("web", [])
    found = [message["deliveries"] for message in process.queued("deliver-web")]
    assert sorted(map(len, found)) == [1, 500, 500]
    assert {UUID(id_) for message in found for id_ in message} == set(ids)


def test_a_worker_sends_what_its_message_names(
    chain: Chain, process: Process, rows: Rows, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the broker and the actor, as in a worker process."""
    import dramatiq

    from workers.deliver import send_deliveries

    send_deliveries("web", chain.route(*({"recipients": [f"u-{n}"]} for n in range(3)))["web"])
    worker = dramatiq.Worker(dramatiq.get_broker(), queues={"deliver-web"}, worker_threads=1)
    thread = threading.Thread(target=worker.start)
    thread.start()
    thread.join()
    try:
        eventually(lambda: rows(STATES) == [DONE] * 3)
    finally:
        worker.stop()
