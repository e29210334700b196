"""The room behind the doors: each event stored once, whoever sends it, however often and however many at once."""

import random
import threading
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg_pool import ConnectionPool

from pipelines.accept import Accepted, Arrival, Verdict, accept, address, read, reject
from pipelines.catalog import Catalog
from schema.errors import FieldError, InvalidEvent
from schema.identity import milliseconds_of
from schema.notification import CHANNELS
from tests.integration.chain import CONTENT, Rows, at_once

Outcome = tuple[list[Verdict], list[Accepted]]


@pytest.fixture
def arrival(catalog: Catalog) -> Any:
    def made(id_: str, **changes: Any) -> Arrival:
        usual = {"id": id_, "type": "comment", "recipients": ["ada"], "data": CONTENT}
        return read(msgspec.json.encode(usual | changes), catalog)

    return made


def send(pool: ConnectionPool, *calls: list[Arrival]) -> Outcome:
    with pool.connection() as connection:
        return accept(connection, "http", calls)


def test_an_event_becomes_a_row(pool: ConnectionPool, arrival: Any, rows: Rows) -> None:
    verdicts, (ready,) = send(
        pool,
        [
            arrival(
                "c-1",
                recipients=["ada", "bob"],
                actor="cleo",
                group_key="post-1",
                importance="high",
                expires_at="2100-01-01T00:00:00Z",
                source="blog",
            )
        ],
    )
    assert verdicts == [Verdict(["accepted"], [])]
    assert ready[:5] == ("c-1", "comment", ["ada", "bob"], "high", "post-1")
    (row,) = rows("SELECT * FROM events")
    assert (row["id"], row["recipients"], row["actor"], row["data"]) == ("c-1", ["ada", "bob"], "cleo", CONTENT)
    assert (row["group_key"], row["importance"], row["source"], row["door"]) == ("post-1", "high", "blog", "http")
    assert (row["accepted_at"], row["expires_at"]) == (ready.accepted_at, datetime(2100, 1, 1, tzinfo=UTC))
    assert (row["recipient_count"], row["routed_count"]) == (2, 0)


def test_a_repeat_is_answered_and_not_stored(pool: ConnectionPool, arrival: Any, rows: Rows) -> None:
    send(pool, [arrival("1")])
    assert send(pool, [arrival("1"), arrival("2"), arrival("2")]) == (
        [Verdict(["duplicate", "accepted", "duplicate"], [])],
        [
            Accepted(
                "2",
                "comment",
                ["ada"],
                None,
                None,
                rows("SELECT accepted_at FROM events WHERE id = '2'")[0]["accepted_at"],
            )
        ],
    )


def test_another_body_is_a_conflict_and_its_call_stores_nothing(
    pool: ConnectionPool, arrival: Any, rows: Rows
) -> None:
    send(pool, [arrival("1")])
    verdicts, ready = send(
        pool,
        [arrival("2"), arrival("1", actor="eve"), arrival("3")],
        [arrival("3", actor="bob"), arrival("4")],
        [arrival("3")],
    )
    assert verdicts == [Verdict([], [1]), Verdict(["accepted", "accepted"], []), Verdict([], [0])]
    assert [event.id for event in ready] == ["3", "4"]
    assert [row["id"] for row in rows("SELECT id FROM events ORDER BY id")] == ["1", "3", "4"]
    assert rows("SELECT actor FROM events WHERE id = '1'") == [{"actor": None}]


def test_a_call_that_contradicts_itself(pool: ConnectionPool, arrival: Any, rows: Rows) -> None:
    assert send(pool, [arrival("1"), arrival("1", actor="bob")]) == ([Verdict([], [1])], [])
    assert rows("SELECT * FROM events") == []


def test_fifty_at_once_and_one_is_first(pool: ConnectionPool, arrival: Any, rows: Rows) -> None:
    answers = at_once(50, lambda _: send(pool, [arrival("c-1")]))
    statuses = [status for (verdict,), _ in answers for status in verdict.statuses]
    assert sorted(statuses) == ["accepted"] + ["duplicate"] * 49
    assert sum(len(ready) for _, ready in answers) == 1
    assert rows("SELECT id FROM events") == [{"id": "c-1"}]


def test_fifty_bodies_at_once_and_one_wins(pool: ConnectionPool, arrival: Any, rows: Rows) -> None:
    """Each call has an event of its own beside: the losers' are not stored."""
    answers = at_once(50, lambda n: send(pool, [arrival(f"own-{n}"), arrival("c-1", actor=f"user-{n}")]))
    won = [n for n, ((verdict,), _) in enumerate(answers) if not verdict.conflicts]
    assert len(won) == 1
    stored = rows("SELECT id, actor FROM events ORDER BY id")
    assert [row["id"] for row in stored] == ["c-1", f"own-{won[0]}"]
    assert stored[0]["actor"] == f"user-{won[0]}"


def test_the_same_events_in_any_order_at_once(pool: ConnectionPool, arrival: Any, rows: Rows) -> None:
    """Two that store the same events, each in its own order, must not wait for each other in a circle."""
    arrivals = [arrival(f"e-{number:03}") for number in range(200)]
    orders = [random.Random(seed).sample(arrivals, len(arrivals)) for seed in range(8)]
    answers = at_once(8, lambda number: send(pool, orders[number]))
    assert sum(verdict.statuses.count("accepted") for (verdict,), _ in answers) == 200
    assert sorted(event.id for _, ready in answers for event in ready) == [
        f"e-{number:03}" for number in range(200)
    ]
    assert rows("SELECT count(*) AS n FROM events") == [{"n": 200}]


@pytest.mark.parametrize(("ends", "status"), [("COMMIT", "duplicate"), ("ROLLBACK", "accepted")])
def test_who_comes_second_waits_for_the_first(
    ends: str, status: str, pool: ConnectionPool, database_url: str, arrival: Any, rows: Rows, eventually: Any
) -> None:
    answers: list[Outcome] = []
    second = threading.Thread(target=lambda: answers.append(send(pool, [arrival("x"), arrival("c-1")])))
    with psycopg.connect(database_url, autocommit=True) as first:
        first.execute("BEGIN")
        first.execute(
            """INSERT INTO events (id, type, recipients, accepted_at, body_hash)
            VALUES ('c-1', 'a', '[]', now(), decode(%s, 'hex'))""",
            (arrival("c-1").hash,),
        )
        second.start()
        eventually(lambda: rows("SELECT 1 FROM pg_locks WHERE NOT granted"))
        assert answers == []
        first.execute(ends)
    second.join()
    (((verdict,), ready),) = answers
    assert verdict.statuses == ["accepted", status]
    assert [event.id for event in ready] == (["x"] if status == "duplicate" else ["x", "c-1"])


def test_an_event_for_later_waits_with_a_timer(pool: ConnectionPool, arrival: Any, rows: Rows) -> None:
    later = arrival("later", send_at="2100-01-01T00:00:00Z")
    _, ready = send(pool, [later, arrival("past", send_at="2000-01-01T00:00:00Z"), arrival("now")])
    assert [event.id for event in ready] == ["past", "now"]
    (timer,) = rows("SELECT kind, subject, due_at FROM timers")
    assert timer == {"kind": "event", "subject": "later", "due_at": datetime(2100, 1, 1, tzinfo=UTC)}
    send(pool, [later])
    assert len(rows("SELECT * FROM timers")) == 1


def test_nothing_is_stored_of_nothing(pool: ConnectionPool) -> None:
    assert send(pool) == ([], [])
    assert send(pool, []) == ([Verdict([], [])], [])


@pytest.mark.parametrize(
    "data",
    [
        {"text": "\\u0000 \u2028 \U0001f600 \x01 \x7f"},
        {"n": [1e22, 5e-324, -0.0, 2**63, 10**4000, 0.1]},
        {"": {"": ""}},
    ],
)
def test_what_passes_the_door_can_be_stored_and_read(
    data: dict[str, Any], pool: ConnectionPool, arrival: Any, rows: Rows
) -> None:
    send(pool, [arrival("1", data=CONTENT | data)])
    assert rows("SELECT data FROM events") == [{"data": CONTENT | data}]


def test_what_is_as_deep_as_the_door_allows_can_be_stored(
    pool: ConnectionPool, catalog: Catalog, rows: Rows
) -> None:
    def nested(depth: int) -> bytes:
        event = {"type": "comment", "recipients": ["ada"], "data": CONTENT | {"x": "deep"}}
        return msgspec.json.encode(event).replace(b'"deep"', b"[" * depth + b"]" * depth)

    passed = []
    for depth in range(100, 1100, 100):
        try:
            passed.append(read(nested(depth), catalog))
        except InvalidEvent:
            break
    send(pool, passed)
    assert rows("SELECT count(*) AS n FROM events") == [{"n": len(passed)}]


def test_what_was_refused_is_kept_with_its_reasons(pool: ConnectionPool, rows: Rows) -> None:
    with pool.connection() as connection:
        reject(
            connection,
            "stream",
            [
                ("c-1", b'{"type": 5}', [FieldError("type", "expected str, got int"), FieldError("", "x")]),
                (None, b"\xff\x00\x01 not text", []),
            ],
        )
        reject(connection, "stream", [])
    first, second = rows("SELECT * FROM rejected_events ORDER BY id")
    assert (first["door"], first["event_id"], first["payload"]) == ("stream", "c-1", '{"type": 5}')
    assert first["errors"] == [
        {"field": "type", "message": "expected str, got int"},
        {"field": "", "message": "x"},
    ]
    assert (second["event_id"], second["payload"]) == (None, "\\xff\\u0000\x01 not text")


@pytest.mark.parametrize(
    "raw",
    [
        rb'{"\u0000": 1}',
        rb'{"type": "\u0000", "recipients": ["a"]}',
        rb'{"type": "comment", "recipients": ["a"], "data": {"\u0000": 1, "userName": "\u0000"}}',
        rb'{"importance": "\u0000"}',
        b'{"type": 5, broken',
        b'{"type": 5, "x": "\xff"}',
        b'{"type": 5, "data": ' + b"[" * 5000,
    ],
)
def test_whatever_is_refused_can_be_kept(raw: bytes, pool: ConnectionPool, catalog: Catalog, rows: Rows) -> None:
    """A door that stumbles over one entry is closed for all behind it."""
    with pytest.raises(InvalidEvent) as caught:
        read(raw, catalog)
    with pool.connection() as connection:
        reject(connection, "stream", [(None, raw, caught.value.errors)])
    assert len(rows("SELECT * FROM rejected_events")) == 1


def test_an_event_is_addressed_to_each_recipient(catalog: Catalog) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    event = Accepted("c-1", "payment", ["ada", "bob"], None, "order-1", at)
    told = address(event, catalog)
    assert [n.recipient for n in told] == ["ada", "bob"]
    assert len({n.id for n in told}) == 2
    assert {milliseconds_of(n.id) for n in told} == {milliseconds_of(at)}
    assert {(n.event_id, n.type, n.importance, n.open, n.window) for n in told} == {
        ("c-1", "payment", "high", CHANNELS, "order-1")
    }
    assert address(event, catalog) == told
    assert address(event._replace(importance="low"), catalog)[0].importance == "low"
    assert address(event._replace(type="gone"), catalog)[0].importance == "normal"
