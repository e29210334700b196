"""A timer that is due soon does not notice how many are due later, nor how many clocks there are.

For a million of them: TIMERS=1000000 python -m pytest -s tests/integration/test_timers.py
"""

import os
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import pytest

from tests.integration.chain import Chain, Process, Rows, Run, at_once

if TYPE_CHECKING:
    from tests.integration.fleet import Start

pytest_plugins = ["tests.integration.fleet"]

WAITING = int(os.environ.get("TIMERS", "100000"))
LATE = 1.5
"""Seconds: a clock looks twice a second, and this machine may have other work."""
_EVENTS = """
INSERT INTO events (id, type, recipients, data, send_at, accepted_at, recipient_count)
SELECT 'e-' || n, 'comment', '["ada"]', '{}', now() + interval '1 day', now(), 1 FROM generate_series(1, %s) AS n
"""
_TIMERS = """
INSERT INTO timers (key, kind, subject, due_at) SELECT 'event/' || id, 'event', id, send_at FROM events
"""


@pytest.mark.timeout(600)
def test_one_in_a_second_among_many_tomorrow(
    chain: Chain,
    process: Process,
    run: Run,
    start: "Start",
    environment: dict[str, str],
    eventually: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With two clocks that look after everything else as well. Lateness is by one machine's clock."""
    run(_EVENTS, WAITING)
    run(_TIMERS)
    for _ in range(2):
        start(environment, "python", "-m", "workers.clock")
    eventually(lambda: len(list(process.client.scan_iter("tocsin:alive:clock:*"))) == 2, 60)
    chain.accept({"id": "soon", "send_at": f"{in_seconds(run, chain, 1).isoformat()}"})
    (message,) = eventually(lambda: messages(process), 30)
    due = in_seconds(run, chain, 0, "soon")
    late = message["message_timestamp"] / 1000 - due.timestamp()
    with capsys.disabled():
        sys.stdout.write(f"\n{WAITING:,} timers due tomorrow, one in 1 s: {1000 * late:.0f} ms late\n")
    assert 0 <= late < LATE
    assert message["args"][0]["notifications"][0][1] == "soon"


def in_seconds(run: Run, chain: Chain, seconds: float, event: str | None = None) -> datetime:
    """By PostgreSQL's clock; or when that event is due."""
    with chain.use.pool.connection() as connection:
        query = "SELECT coalesce((SELECT send_at FROM events WHERE id = %s), now() + %s * interval '1 s')"
        row = connection.execute(query, (event, seconds)).fetchone()
    assert row
    found: datetime = row[0]
    return found


def messages(process: Process) -> list[dict[str, Any]]:
    found: Any = process.client.hvals("tocsin:pipeline.msgs")
    return [msgspec.json.decode(message) for message in found]


def test_what_is_due_is_found_and_taken_by_indexes(process: Process, run: Run, database_url: str) -> None:
    """Prepared once for any number of rows, as the clock's own connections do."""
    from workers.clock import _TIMERS as RELEASE

    run(_EVENTS, 20_000)
    run(_TIMERS)
    options = "-c plan_cache_mode=force_generic_plan -c random_page_cost=1.1"
    with psycopg.connect(database_url, options=options, autocommit=True) as connection:
        for analyzed in (False, True):
            if analyzed:
                connection.execute("ANALYZE timers, events")
            query = RELEASE.replace("%s", "$1")
            connection.execute(f"PREPARE release_{analyzed} (int) AS {query}".encode())
            plan = [row[0] for row in connection.execute(f"EXPLAIN EXECUTE release_{analyzed} (1000)".encode())]
            assert not [line for line in plan if "Seq Scan" in line], "\n".join(plan)
            assert any("timers_due_at" in line for line in plan)


def test_any_number_of_clocks_release_each_once(process: Process, run: Run, rows: Rows) -> None:
    from workers import clock

    run(_EVENTS, 300)
    run("UPDATE events SET send_at = now() - interval '1 s'")
    run(_TIMERS)
    with pytest.MonkeyPatch.context() as small:
        small.setattr(clock, "ROUND", 20)
        released = at_once(4, lambda _: sum(clock.release_timers() for _ in range(20)))
    assert sum(released) == 300
    started = [n[1] for message in process.queued("pipeline") for n in message["notifications"]]
    assert (len(started), len(set(started)), rows("SELECT FROM timers")) == (300, 300, [])
