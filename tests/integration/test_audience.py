"""Audiences: who belongs to one, and that everybody who does is told once, whatever happens on the way."""

from collections.abc import Callable
from typing import Any

import msgspec
import psycopg
import pytest

from pipelines import audience
from tests.integration.chain import Chain, Process, Rows, Run, at_once

Step = Callable[[], int]
CHUNK = 40


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is true of chunks of 500 is true of smaller ones, and sooner seen."""
    monkeypatch.setattr(audience, "CHUNK", CHUNK)


@pytest.fixture
def step(process: Process) -> Step:
    """step(): works off what the bulk lane holds now; how many messages that were."""
    from workers import chain

    def once() -> int:
        messages = process.queued("pipeline-bulk")
        process.client.delete("tocsin:pipeline-bulk", "tocsin:pipeline-bulk.msgs")
        for message in messages:
            chain.expand(msgspec.Raw(msgspec.json.encode(message)))
        return len(messages)

    return once


@pytest.fixture
def all_steps(step: Step) -> Step:
    """all_steps(): until the lane is empty; how many messages that took."""

    def until_done() -> int:
        total = 0
        while done := step():
            total += done
            assert total < 100
        return total

    return until_done


def users(run: Run, *names: str, ago: str = "1 hour") -> None:
    run(
        "INSERT INTO users (id, created_at) SELECT unnest(%s::text[]), now() - %s::interval",
        list(names),
        ago,
    )


def subscribers(run: Run, topic: str, *names: str, ago: str = "1 hour") -> None:
    run("INSERT INTO users (id) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", list(names))
    run(
        "INSERT INTO topic_subscribers (topic, user_id, created_at)"
        " SELECT %s, unnest(%s::text[]), now() - %s::interval",
        topic,
        list(names),
        ago,
    )


def many(run: Run, topic: str, count: int) -> None:
    subscribers(run, topic, *(f"user-{n:05}" for n in range(count)))


def send(chain: Chain, **fields: Any) -> None:
    """An event accepted and started, as a door does."""
    from workers.chain import start

    start(chain.accept({"id": "b-1", "type": "system", "data": DATA, "recipients": {"topic": "news"}} | fields))


DATA = {"title": "News", "text": "All is well", "url": "/status"}


def told(rows: Rows, event: str = "b-1") -> list[str]:
    return [
        row["user_id"] for row in rows("SELECT user_id FROM notifications WHERE event_id = %s ORDER BY 1", event)
    ]


def event(rows: Rows, id: str = "b-1") -> dict[str, Any]:
    (found,) = rows(
        "SELECT recipient_count, routed_count, expanded_to, expanded_at IS NOT NULL AS begun, rescues,"
        " cancelled_at IS NOT NULL AS cancelled FROM events WHERE id = %s",
        id,
    )
    return found


@pytest.mark.parametrize(
    ("recipients", "actor", "expected"),
    [
        ({"topic": "news"}, None, ["ada", "bob"]),
        ({"topic": "news"}, "bob", ["ada"]),
        ({"topic": "news"}, "eve", ["ada", "bob"]),
        ({"topic": "sports"}, None, ["cleo"]),
        ({"topic": "nobodys"}, None, []),
        ({"all": True}, None, ["ada", "bob", "cleo", "dan"]),
        ({"all": True}, "dan", ["ada", "bob", "cleo"]),
        (["ada", "zoe"], "ada", ["ada", "zoe"]),
    ],
)
def test_who_is_told(
    chain: Chain, rows: Rows, run: Run, all_steps: Step, recipients: Any, actor: str | None, expected: list[str]
) -> None:
    users(run, "dan")
    subscribers(run, "news", "ada", "bob")
    subscribers(run, "sports", "cleo")
    if isinstance(recipients, list):
        chain.route({"id": "b-1", "recipients": recipients, "actor": actor})
    else:
        send(chain, recipients=recipients, actor=actor)
        all_steps()
    assert told(rows) == expected
    assert (event(rows)["recipient_count"], event(rows)["routed_count"]) == (len(expected), len(expected))


@pytest.mark.parametrize(
    ("count", "messages"), [(1, 1), (CHUNK - 1, 1), (CHUNK, 2), (CHUNK + 1, 2), (2 * CHUNK + 3, 3)]
)
def test_an_audience_is_written_in_chunks_of_which_one_is_queued_at_a_time(
    chain: Chain, rows: Rows, run: Run, step: Step, count: int, messages: int
) -> None:
    many(run, "news", count)
    send(chain)
    assert event(rows) == {
        "recipient_count": 1,
        "routed_count": 0,
        "expanded_to": None,
        "begun": False,
        "rescues": 0,
        "cancelled": False,
    }
    for written in range(1, messages + 1):
        assert step() == 1
        found = event(rows)
        assert found["routed_count"] == min(written * CHUNK, count)
        if written < messages:  # what is open is found by the clock, and counted as backlog
            assert found["routed_count"] < found["recipient_count"]
    assert step() == 0
    assert (found["recipient_count"], found["routed_count"], found["expanded_to"]) == (count, count, None)
    assert len(set(told(rows))) == count


def test_who_comes_later_is_not_told_and_who_leaves_is_not_either(
    chain: Chain, rows: Rows, run: Run, step: Step, all_steps: Step
) -> None:
    """Wherever their ids lie: before the place that was reached, or behind it."""
    many(run, "news", CHUNK + 2)
    send(chain)
    step()
    subscribers(run, "news", "aaa", "zzz", ago="0 s")
    run("DELETE FROM topic_subscribers WHERE user_id = ANY(%s)", ["user-00000", f"user-{CHUNK:05}"])
    all_steps()
    found = told(rows)
    assert "user-00000" in found
    assert {"aaa", "zzz", f"user-{CHUNK:05}"}.isdisjoint(found)
    assert (len(found), event(rows)["recipient_count"]) == (CHUNK + 1, CHUNK + 1)


def test_everybody_is_who_was_known_when_it_was_due(chain: Chain, rows: Rows, run: Run, all_steps: Step) -> None:
    users(run, "ada")
    users(run, "tomorrow", ago="-1 hour")
    send(chain, recipients={"all": True})
    all_steps()
    assert told(rows) == ["ada"]
    run("UPDATE events SET expanded_at = NULL, send_at = now() + interval '2 hours'")
    from workers.chain import send_expansion

    send_expansion("b-1")
    all_steps()
    assert told(rows) == ["ada", "tomorrow"]


def test_a_crash_before_the_checkpoint_repeats_the_chunk_and_nobody_is_told_twice(
    chain: Chain, rows: Rows, run: Run, step: Step, all_steps: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.chain import send_expansion

    many(run, "news", CHUNK + 10)
    send(chain)

    def dies(*_: object) -> bool:
        raise RuntimeError("killed")

    with monkeypatch.context() as killed:
        killed.setattr(audience, "move_on", dies)
        with pytest.raises(RuntimeError):
            step()
    assert event(rows)["routed_count"] == CHUNK
    send_expansion("b-1")  # its message is taken over
    all_steps()
    assert (len(told(rows)), event(rows)["routed_count"]) == (CHUNK + 10, CHUNK + 10)
    assert rows("SELECT max(unread) AS most, count(*) AS count FROM inboxes") == [{"most": 1, "count": CHUNK + 10}]


def test_of_several_messages_one_goes_on(chain: Chain, rows: Rows, run: Run, step: Step, all_steps: Step) -> None:
    """A message that was taken over, though its process had sent the next; one that the clock sent besides."""
    from workers.chain import send_expansion

    many(run, "news", 3 * CHUNK + 1)
    send(chain)
    send_expansion("b-1")
    send_expansion("b-1")
    assert step() == 3
    assert all_steps() < 3 + 3
    assert (len(told(rows)), event(rows)["routed_count"]) == (3 * CHUNK + 1, 3 * CHUNK + 1)
    send_expansion("b-1")  # late
    send_expansion("b-1", f"user-{CHUNK - 1:05}")
    assert all_steps() == 2
    assert event(rows)["routed_count"] == 3 * CHUNK + 1


def test_processes_at_once_write_each_user_once(process: Process, chain: Chain, rows: Rows, run: Run) -> None:
    from workers.chain import expand

    many(run, "news", CHUNK + 50)
    send(chain)
    for _ in range(3):
        at_once(4, lambda _: expand(msgspec.Raw(b'{"event": "b-1"}')))
    assert (len(told(rows)), event(rows)["routed_count"]) == (CHUNK + 50, CHUNK + 50)
    assert event(rows)["expanded_to"] is None


@pytest.mark.parametrize("duty", ["rescue_events", "refill"])
def test_the_clock_goes_on_where_a_lost_message_stopped(
    chain: Chain, rows: Rows, run: Run, step: Step, all_steps: Step, process: Process, duty: str
) -> None:
    from workers import clock

    many(run, "news", CHUNK + 10)
    send(chain)
    run("UPDATE events SET accepted_at = accepted_at - interval '1 minute'")
    step()
    assert clock.rescue_events() == 0  # it is getting on
    process.client.flushall()
    run("UPDATE events SET expanded_at = expanded_at - interval '16 s'")
    assert getattr(clock, duty)() in (1, CHUNK)  # refill counts deliveries, too
    assert all_steps() == 1
    run("UPDATE events SET expanded_at = expanded_at - interval '1 day'")
    assert (len(told(rows)), event(rows)["rescues"], clock.rescue_events()) == (10 + CHUNK, 0, 0)


def test_an_audience_waits_for_its_time(chain: Chain, rows: Rows, run: Run, all_steps: Step) -> None:
    from workers import clock

    subscribers(run, "news", "ada")
    send(chain, send_at="2100-01-01T00:00:00Z")
    assert (all_steps(), clock.release_timers()) == (0, 0)
    run("UPDATE timers SET due_at = now()")
    run("UPDATE events SET send_at = now()")
    assert (clock.release_timers(), all_steps(), told(rows)) == (1, 1, ["ada"])


def test_where_enough_waits_deliveries_stay_in_their_rows(
    chain: Chain, rows: Rows, run: Run, all_steps: Step, process: Process
) -> None:
    from workers import clock
    from workers.queues import ENOUGH

    many(run, "news", 3)
    for n in range(ENOUGH):
        process.client.rpush("tocsin:deliver-web", f"m-{n}")
    from workers import chain as lanes

    send(chain)
    with pytest.MonkeyPatch.context() as patient:
        patient.setattr(lanes, "GIVES_WAY", 0.05)
        all_steps()
    assert process.queued("deliver-web") == []
    process.client.delete("tocsin:deliver-web")
    run("UPDATE deliveries SET next_attempt_at = now(), created_at = created_at - interval '16 s'")
    assert clock.send_due_deliveries() == 3
    assert sorted(rows("SELECT DISTINCT state FROM deliveries"), key=str) == [{"state": "pending"}]


def test_it_gives_way_to_single_events_and_not_for_ever(
    chain: Chain, rows: Rows, run: Run, process: Process, eventually: Any
) -> None:
    import threading

    from workers import chain as lanes

    many(run, "news", 3)
    send(chain)
    process.client.rpush("tocsin:pipeline", "a-single-event")
    work = threading.Thread(target=lanes.expand, args=(msgspec.Raw(b'{"event": "b-1"}'),))
    work.start()
    process.client.lpop("tocsin:pipeline")
    work.join(20)
    assert len(told(rows)) == 3
    process.client.rpush("tocsin:pipeline", "more-and-more")
    with pytest.MonkeyPatch.context() as patient:
        patient.setattr(lanes, "GIVES_WAY", 0.05)
        lanes.give_way()


def test_the_timeline_pages_over_an_audience(chain: Chain, run: Run, step: Step, all_steps: Step) -> None:
    from workers import timeline

    many(run, "news", CHUNK + 4)
    send(chain)
    step()
    with chain.use.pool.connection() as connection:
        under_way = timeline.of_event(connection, "b-1", limit=2)
    assert under_way
    assert under_way.state == "routing"
    assert under_way.says == f"is on its way: {CHUNK:,} of {CHUNK + 4:,} recipients written"
    all_steps()
    seen, skip = [], 0
    while skip is not None:
        with chain.use.pool.connection() as connection:
            page = timeline.of_event(connection, "b-1", skip=skip, limit=20)
        assert page
        seen += [one.user for one in page.notifications]
        skip = page.next
    assert (len(seen), len(set(seen)), page.state) == (CHUNK + 4, CHUNK + 4, "routed")
    with chain.use.pool.connection() as connection:
        for user, found in (("user-00003", ["user-00003"]), ("nobody", [])):
            page = timeline.of_event(connection, "b-1", user)
            assert page
            assert [one.user for one in page.notifications] == found


def test_a_repeat_is_a_repeat_and_another_audience_is_a_clash(chain: Chain) -> None:
    from pipelines import accept

    def verdict(recipients: Any) -> Any:
        raw = {"id": "b-1", "type": "system", "data": DATA, "recipients": recipients}
        arrival = accept.read(msgspec.json.encode(raw), chain.use.catalog)
        with chain.use.pool.connection() as connection:
            return accept.accept(connection, "http", [[arrival]])[0][0]

    assert verdict({"topic": "news"}).statuses == ["accepted"]
    assert verdict({"topic": "news", "all": False}).statuses == ["duplicate"]
    for other in ({"topic": "sports"}, {"all": True}, ["ada"]):
        assert verdict(other).conflicts == [0]


def test_erasing_a_user_ends_the_subscriptions(run: Run, rows: Rows) -> None:
    subscribers(run, "news", "ada", "bob")
    run("DELETE FROM users WHERE id = 'ada'")
    assert rows("SELECT user_id FROM topic_subscribers") == [{"user_id": "bob"}]


def test_a_chunk_is_found_by_the_index(run: Run, database_url: str) -> None:
    many(run, "news", 2000)
    run(
        "INSERT INTO topic_subscribers (topic, user_id)"
        " SELECT 'other-' || n, id FROM users, generate_series(1, 5) AS n"
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ANALYZE topic_subscribers")
        told = {"topic": "news", "due": "2100-01-01", "actor": None, "after": "user-01000", "chunk": CHUNK}
        sql = audience._CHUNK.format(audience._SUBSCRIBERS)
        plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {sql}", told))
    assert "topic_subscribers_pkey" in plan
    assert "Sort" not in plan
