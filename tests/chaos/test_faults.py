"""Nothing that was accepted is lost, and nothing is shown twice, whatever dies.

Events come steadily through two doors while one thing after the other fails. In the end the ledger is balanced:
every event that a door took is on its recipient's screen exactly once, live, across all reconnects, and in the
database exactly once. Until its commit an entry of the stream is only as durable as the Redis that holds it, so
where Redis loses what it holds all events come by HTTP.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.chaos.conftest import Severity
from tests.chaos.load import Load
from tests.chaos.system import System
from workers import procfile

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

HEALED = 30.0
"""Seconds within which everything accepted is on its screen once the fault is over; more where other programs
keep the machine busy."""
CALM = 15.0
"""Seconds of load, at most, until things take their usual time: before a fault, and again when all is healed."""
LATE = 60.0
"""Seconds to wait for what should have been there long ago: late is not lost."""
QUEUED = 20
"""Messages that wait in a Redis before it is emptied: there must be something to lose."""


class Fault(NamedTuple):
    """`happen` returns when the fault is over; a process that died is not yet back then."""

    name: str
    happen: Callable[[System, Severity], None]
    stream: bool = True
    healed: float = HEALED


def kill_pipeline_child(system: System, _: Severity) -> None:
    system.kill_with_work("pipeline", lambda: system.in_hand("pipeline"))


def kill_pipeline_master(system: System, _: Severity) -> None:
    system.kill("pipeline")


def kill_deliver_web(system: System, _: Severity) -> None:
    system.kill_with_work("deliver-web", lambda: system.in_hand("deliver-web"))


def kill_intake(system: System, _: Severity) -> None:
    system.kill_with_work("intake", system.taken)


def kill_clock(system: System, _: Severity) -> None:
    system.kill("clock")


def kill_gateway(system: System, _: Severity) -> None:
    system.kill("gateway")


def kill_api(system: System, _: Severity) -> None:
    system.kill("api")


def restart_all(system: System, _: Severity) -> None:
    for name in procfile.read():
        system.restart(name)


def stop_pipeline(system: System, severity: Severity) -> None:
    with system.stopped("pipeline"):
        system.for_seconds(severity.stopped)


def flush(system: System, _: Severity) -> None:
    with system.stopped("pipeline"):
        system.wait_until(lambda: system.left_in_redis() > QUEUED, 10)
        system.redis.flushall()


def empty_valkey(system: System, _: Severity) -> None:
    with system.stopped("pipeline"):
        system.wait_until(lambda: system.left_in_redis() > QUEUED, 10)
        with system.without_valkey(emptied=True):
            pass


def valkey_away(system: System, severity: Severity) -> None:
    with system.without_valkey(emptied=False):
        system.for_seconds(severity.away)


def restart_postgres(system: System, _: Severity) -> None:
    with system.without_postgres():
        pass


def postgres_away(system: System, severity: Severity) -> None:
    with system.without_postgres():
        system.for_seconds(severity.away)


FAULTS = (
    Fault("pipeline worker killed", kill_pipeline_child),
    Fault("pipeline master killed", kill_pipeline_master),
    Fault("deliver-web killed", kill_deliver_web),
    Fault("intake killed", kill_intake),
    Fault("clock killed", kill_clock),
    Fault("gateway killed", kill_gateway),
    Fault("api killed", kill_api),
    Fault("all restarted in turn", restart_all),
    Fault("pipeline worker stopped", stop_pipeline),
    Fault("FLUSHALL", flush, stream=False, healed=10),
    Fault("Valkey killed, back empty", empty_valkey, stream=False),
    Fault("Valkey away", valkey_away),
    Fault("Postgres restarted", restart_postgres),
    Fault("Postgres away", postgres_away),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_everything_accepted_arrives_once(
    fault: Fault,
    system: System,
    severity: Severity,
    load: Callable[..., Load],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with load(stream=fault.stream) as run:
        ledger = run.ledger
        system.wait_until(lambda: ledger.entries, LATE)
        began = time.monotonic()
        system.for_seconds(severity.before)
        system.within(CALM, ledger.is_calm)
        ledger.learn_what_is_usual()
        fault.happen(system, severity)
        over = time.monotonic()
        system.within(LATE, lambda: not ledger.open_before(over))
        system.within(CALM, ledger.is_calm)
        system.for_seconds(began + severity.lasts - time.monotonic())
        run.end()
        system.within(LATE, lambda: not ledger.unanswered)
        system.within(LATE, lambda: not ledger.lost)
        system.within(LATE, lambda: not open_deliveries(system, run.name))
        run.check()
    healed = ledger.healed_after(over)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{fault.name:<26} accepted {len(ledger.accepted):>6,}  arrived {len(ledger.arrived):>6,}"
            f"  doubled {len(ledger.doubled)}  lost {len(ledger.lost)}  healed in {healed:4.1f} s"
            f"  usual latency after {ledger.calm_after(over):4.1f} s\n"
        )
    assert not ledger.unanswered
    assert not ledger.lost, known_of(system, [entry.id for entry in ledger.lost])
    assert not ledger.doubled
    assert not ledger.odd
    assert discrepancies(system, run) == {}
    assert healed <= fault.healed * max(1, os.getloadavg()[0] / (os.cpu_count() or 1) / 4)


def open_deliveries(system: System, name: str) -> int:
    """Shown perhaps, and not settled yet."""
    sql = "SELECT count(*) FROM deliveries WHERE user_id LIKE %s AND state <> 'sent'"
    return int(system.query(sql, f"{name}-%")[0][0])


def known_of(system: System, ids: list[str]) -> str:
    """How far the first of these events came: what the database holds of each."""
    sql = (
        "SELECT to_jsonb(e) - 'data', to_jsonb(n) - 'data', to_jsonb(d), to_jsonb(i), now() FROM events e"
        " LEFT JOIN notifications n ON n.event_id = e.id LEFT JOIN deliveries d ON d.notification_id = n.id"
        " LEFT JOIN inboxes i ON i.user_id = n.user_id WHERE e.id = ANY(%s)"
    )
    return "\n".join(str(row) for row in system.query(sql, ids[:5])) or f"no rows of {ids[:5]}"


def discrepancies(system: System, run: Load) -> dict[str, object]:
    """Where the database does not say what the ledger says; empty when it does."""
    mine = f"{run.name}-%"
    once = {
        id_
        for (id_,) in system.query(
            "SELECT n.event_id FROM notifications n LEFT JOIN deliveries d ON d.notification_id = n.id"
            " WHERE n.user_id LIKE %s GROUP BY n.event_id"
            " HAVING count(DISTINCT n.id) = 1 AND count(d.id) = 1 AND bool_and(d.state = 'sent')",
            mine,
        )
    }
    ((stored, routed),) = system.query(
        "SELECT count(*), count(*) FILTER (WHERE routed_count = 1) FROM events WHERE id LIKE %s", mine
    )
    ((wrong_inboxes,),) = system.query(
        "SELECT count(*) FROM inboxes i WHERE user_id LIKE %s AND"
        " (seq, unread) <> (SELECT count(*), count(*) FROM notifications n WHERE n.user_id = i.user_id)",
        mine,
    )
    ((sent, counted),) = system.query(
        "SELECT (SELECT count(*) FROM deliveries WHERE state = 'sent'),"
        " (SELECT sum(count) FROM notification_analytics WHERE event = 'sent')"
    )
    ((dead, rejected),) = system.query(
        "SELECT (SELECT count(*) FROM dead_letters), (SELECT count(*) FROM rejected_events)"
    )
    accepted = {entry.id for entry in run.ledger.accepted}
    found = {
        "not written and sent exactly once": sorted(accepted ^ once)[:10],
        "not stored, or not routed, exactly once": len(accepted) - stored or len(accepted) - routed,
        "inboxes whose seq or unread is wrong": wrong_inboxes,
        "sent, but not counted exactly once": sent - counted,
        "dead letters": dead,
        "rejected events": rejected,
    }
    return {what: number for what, number in found.items() if number}
