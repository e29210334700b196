"""The clock's duties on real rows: each finds what is due, takes it once, and may be repeated."""

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from schema.partitions import PARTITIONED, months, name
from tests.integration.chain import Chain, Process, Rows, Run, at_once

Duty = Callable[[str], int]

LATE = "UPDATE events SET accepted_at = accepted_at - interval '16 s'"
OVERDUE = "UPDATE deliveries SET next_attempt_at = now(), created_at = created_at - interval '16 s'"


@pytest.fixture
def duty(process: Process) -> Duty:
    """duty("rescue_events"): one round of it; how many rows it took."""
    from workers import clock

    def once(name: str) -> int:
        done: int = getattr(clock, name)()
        return done

    return once


def events_of(process: Process, queue: str = "pipeline") -> list[str]:
    return sorted(n[1] for message in process.queued(queue) for n in message["notifications"])


def deliveries_of(process: Process) -> list[str]:
    return sorted(id_ for message in process.queued("deliver-web") for id_ in message["deliveries"])


def later(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


def test_events_whose_message_was_lost_start_again(duty: Duty, process: Process, chain: Chain, run: Run) -> None:
    chain.accept({"id": "lost", "recipients": ["ada", "bob"]})
    chain.accept({"id": "young"})
    chain.route({"id": "routed"})
    run(f"{LATE} WHERE id <> 'young'")
    assert duty("rescue_events") == 1
    assert events_of(process) == ["lost", "lost"]


def test_an_event_partly_routed_starts_again(duty: Duty, process: Process, chain: Chain, run: Run) -> None:
    chain.route({"id": "half", "recipients": ["ada", "bob"]})
    run("UPDATE events SET routed_count = 1, accepted_at = accepted_at - interval '16 s'")
    assert duty("rescue_events") == 1
    assert events_of(process) == ["half", "half"]


def test_a_rescued_event_is_not_rescued_again_at_once(
    duty: Duty, process: Process, chain: Chain, run: Run
) -> None:
    """Under a backlog every event is late; rescuing each over and over would only make it longer."""
    chain.accept({"id": "late"})
    run(LATE)
    assert duty("rescue_events") == 1
    assert duty("rescue_events") == 0
    assert events_of(process) == ["late"]


def test_a_full_round_of_rescue_is_followed_by_other_events(
    duty: Duty, process: Process, chain: Chain, run: Run
) -> None:
    chain.accept(*({"id": f"e-{number:04}"} for number in range(1100)))
    run(LATE)
    assert [duty("rescue_events"), duty("rescue_events"), duty("rescue_events")] == [1000, 100, 0]
    assert events_of(process) == [f"e-{number:04}" for number in range(1100)]


def test_a_long_backlog_is_no_loss_and_each_lane_has_its_own(
    duty: Duty, process: Process, chain: Chain, run: Run
) -> None:
    """What still waits in its queue is left there, while the other lane's lost event starts again."""
    from workers.chain import start

    crowd = [f"u-{number}" for number in range(101)]
    start(chain.accept({"id": "waiting"}))
    chain.accept({"id": "lost, and large", "recipients": crowd}, {"id": "lost", "recipients": crowd[:100]})
    run("UPDATE events SET accepted_at = now() - interval '1 h' WHERE id <> 'waiting'")
    run("UPDATE events SET accepted_at = now() - interval '2 h' WHERE id = 'waiting'")
    old = process.client.hgetall("tocsin:pipeline.msgs")
    for id_, message in old.items():
        sent = re.sub(rb'"message_timestamp":\d+', b'"message_timestamp":1', message)
        process.client.hset("tocsin:pipeline.msgs", id_, sent)
    assert duty("rescue_events") == 1
    assert events_of(process, "pipeline-bulk") == ["lost, and large"] * 101
    assert events_of(process) == ["waiting"]
    process.client.delete("tocsin:pipeline", "tocsin:pipeline.msgs")
    assert duty("rescue_events") == 2
    assert events_of(process) == ["lost"] * 100 + ["waiting"]
    assert duty("rescue_events") == 0


def test_an_event_that_waits_for_its_time_is_not_late(
    duty: Duty, process: Process, chain: Chain, run: Run
) -> None:
    chain.accept({"id": "tomorrow", "send_at": later(days=1)})
    run("UPDATE events SET accepted_at = accepted_at - interval '1 h'")
    assert duty("rescue_events") == 0
    run("UPDATE events SET send_at = now() - interval '16 s'")
    assert duty("rescue_events") == 1


def test_timers_are_released_when_due_and_once(
    duty: Duty, process: Process, chain: Chain, run: Run, rows: Rows
) -> None:
    assert chain.accept(*({"id": str(n), "send_at": later(hours=1)} for n in range(3))) == []
    assert duty("release_timers") == 0
    run("UPDATE timers SET due_at = now() WHERE subject <> '2'")
    assert duty("release_timers") == 2
    assert events_of(process) == ["0", "1"]
    assert duty("release_timers") == 0
    assert [row["subject"] for row in rows("SELECT subject FROM timers")] == ["2"]


def test_deliveries_past_their_time_are_sent_again_and_move_on(
    duty: Duty, process: Process, chain: Chain, run: Run, rows: Rows
) -> None:
    users = [f"u-{number}" for number in range(5)]
    ids = sorted(map(str, chain.route({"recipients": users})["web"]))
    assert duty("send_due_deliveries") == 0
    run(OVERDUE)
    run("UPDATE deliveries SET state = 'retrying' WHERE id = %s", ids[0])
    run("UPDATE deliveries SET state = 'sent' WHERE id = %s", ids[1])
    run("UPDATE deliveries SET state = 'dead' WHERE id = %s", ids[2])
    run("UPDATE deliveries SET state = 'failed' WHERE id = %s", ids[3])
    assert duty("send_due_deliveries") == 2
    assert deliveries_of(process) == sorted([ids[0], ids[4]])
    assert duty("send_due_deliveries") == 0
    (soonest,) = rows("SELECT min(next_attempt_at) - now() AS wait FROM deliveries WHERE state IN ('pending')")
    assert timedelta(seconds=10) < soonest["wait"] <= timedelta(seconds=15)


def test_what_an_emptied_redis_forgot_is_in_motion_again_round_by_round(
    duty: Duty, process: Process, chain: Chain
) -> None:
    shown = chain.route({"id": "shown", "recipients": [f"u-{number}" for number in range(20)]})["web"]
    chain.accept(*({"id": f"e-{number:04}"} for number in range(1100)), {"id": "later", "send_at": later(hours=1)})
    assert [duty("refill"), duty("refill"), duty("refill")] == [1000, 100, 0]
    assert events_of(process) == [f"e-{number:04}" for number in range(1100)]
    assert deliveries_of(process) == sorted(map(str, shown))
    process.client.flushdb()
    chain.accept({"id": "new"})
    assert [duty("refill"), duty("refill")] == [1000, 101]


@pytest.mark.parametrize("name", ["release_timers", "rescue_events", "send_due_deliveries"])
def test_clocks_at_once_take_each_row_once(
    name: str, duty: Duty, process: Process, chain: Chain, run: Run
) -> None:
    number = 300
    users = [f"u-{n}" for n in range(number)]
    if name == "send_due_deliveries":
        expected = sorted(map(str, chain.route({"recipients": users})["web"]))
        run(OVERDUE)
    else:
        due = {"send_at": later(hours=1)} if name == "release_timers" else {}
        chain.accept(*({"id": user} | due for user in users))
        run(LATE)
        run("UPDATE timers SET due_at = now()")
        expected = sorted(users)
    taken = at_once(4, lambda _: duty(name))
    assert sum(taken) == number
    assert (deliveries_of(process) if name == "send_due_deliveries" else events_of(process)) == expected


def test_the_months_to_come_are_made_and_made_again(duty: Duty, rows: Rows, run: Run) -> None:
    last = list(months(datetime.now(UTC)))[-1]
    for table in PARTITIONED:
        run(f"DROP TABLE {name(table, last)}")
    for _ in range(2):
        duty("make_partitions")
        found = {row["relname"] for row in rows("SELECT relname FROM pg_class WHERE relispartition")}
        assert {name(table, month) for table in PARTITIONED for month in months(datetime.now(UTC))} <= found


def test_rescues_of_one_event_come_at_doubling_intervals_and_end(
    duty: Duty, process: Process, chain: Chain, run: Run
) -> None:
    from workers.clock import RESCUES

    chain.accept({"id": "poison"})
    run("UPDATE events SET accepted_at = accepted_at - interval '1 d'")
    for waits in (15, 30, 60):
        assert [duty("rescue_events"), duty("rescue_events")] == [1, 0]
        run("UPDATE events SET rescued_at = rescued_at - %s * interval '1 s'", waits * 2 - 1)
        assert duty("rescue_events") == 0
        run("UPDATE events SET rescued_at = rescued_at - interval '1 s'")
    run("UPDATE events SET accepted_at = accepted_at - interval '7 d', rescues = %s", RESCUES)
    assert duty("rescue_events") == 0


def test_redis_away_stops_no_clock(process: Process, chain: Chain, run: Run, eventually: Any) -> None:
    """What could not be sent is found again in a later round."""
    import dramatiq

    from workers import clock

    ids: list[UUID] = chain.route({"recipients": ["ada"]})["web"]
    run(OVERDUE)
    broker = dramatiq.get_broker()
    away = broker.client.connection_pool.connection_kwargs
    port, away["port"] = away["port"], 1
    broker.client.connection_pool.disconnect()
    stop = threading.Event()
    thread = threading.Thread(target=clock.run, args=(stop,))
    thread.start()
    try:
        eventually(lambda: not run("UPDATE deliveries SET attempt = 0 WHERE next_attempt_at <= now()"))
        away["port"] = port
        broker.client.connection_pool.reset()
        run(OVERDUE)
        eventually(lambda: deliveries_of(process) == [str(id_) for id_ in ids])
    finally:
        stop.set()
        thread.join()
