"""What `tocsin trace` and `tocsin send --dry-run` print, in a terminal of 80 columns."""

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from workers import dry_run_cli, trace_cli
from workers.dry_run import DryEvent, DryRun
from workers.timeline import EventTimeline

BEGAN = datetime(2026, 1, 31, 12, 0, 0, 900, UTC)
LONG = "019abc00-0000-7000-8000-" + "0" * 30


def test_nothing_happens_before_the_beginning() -> None:
    """A notification's time is its id's, in whole milliseconds, and the event's has microseconds."""
    early = [(BEGAN - timedelta(microseconds=us), "web", f"closed {us}", "") for us in (0, 400, 900)]
    console = Console(width=80)
    with console.capture() as said:
        console.print(trace_cli.as_table(early, BEGAN))
    assert [line.split()[:2] for line in said.get().splitlines()[1:]] == [["0", "ms"]] * 3


def test_the_headlines_of_a_trace_stay_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    says = "waits for its send_at, 2026-02-01 12:00:00 UTC"
    event = EventTimeline(LONG, "http", BEGAN, "comment", "/the/shop", state="waiting", says=says)
    trace_cli.show(event, None)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"event {LONG}: comment, through the http door from /the/shop"
    assert second == f"2026-01-31 12:00:00 UTC: it {says}"


def test_the_headline_of_a_dry_run_stays_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    event = DryEvent(id=LONG, type="comment", status="accepted", due=BEGAN, recipients=0, notifications=[])
    dry_run_cli.show(DryRun([event]))
    assert capsys.readouterr().out.splitlines()[0] == f"comment {LONG}: 0 recipients, due 2026-01-31 12:00:00 UTC"
