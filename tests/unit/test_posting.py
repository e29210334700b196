"""What the push channels need of HTTP: batches that end in time, and how long to wait."""

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from workers.providers import posting


def together(items: list[int], one: object, seconds: float = 10) -> list[str]:
    until = time.monotonic() + seconds
    return posting.together(
        items, one, until=until, unfinished="unfinished", untried="untried", broken="broken"  # type: ignore[arg-type]
    )  # fmt: skip


def test_nothing_to_do() -> None:
    assert together([], str) == []


def test_in_order_whoever_is_first() -> None:
    first, second = threading.Event(), threading.Event()

    def one(number: int) -> str:
        if number == 0:
            assert second.wait(10)
        if number == 1:
            second.set()
        return str(number)

    assert together([0, 1, 2], one) == ["0", "1", "2"]
    assert not first.is_set()


def test_what_does_not_end_and_what_never_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "THREADS", 2)
    end, begun = threading.Event(), []

    def one(number: int) -> str:
        begun.append(number)
        end.wait(30)
        return "done"

    outcomes = together([0, 1, 2, 3], one, seconds=0.2)
    end.set()
    assert outcomes == ["unfinished", "unfinished", "untried", "untried"]
    assert begun == [0, 1]


def test_a_bug_is_one_items(capsys: pytest.CaptureFixture[str]) -> None:
    def one(number: int) -> str:
        if number == 1:
            raise KeyError("canary")
        return str(number)

    assert together([0, 1, 2], one) == ["0", "broken", "2"]
    logged = capsys.readouterr().out
    assert "KeyError" in logged
    assert "test_posting.py" in logged
    assert "canary" not in logged


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("", None),
        ("0", 0),
        (" 90 ", 90),
        ("1.5", None),
        ("-1", None),
        ("soon", None),
        ("٣", None),
        ("9" * 5000, 3600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00", 0),
        ("Wed, 21 Oct 9999 07:28:00 GMT", 3600),
        ("Wed, 99 Oct 2015 99:28:00 GMT", None),
    ],
)
def test_retry_after(said: str, seconds: float | None) -> None:
    assert posting.retry_after({"Retry-After": said}) == seconds


def test_retry_after_a_date() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    found = posting.retry_after({"Retry-After": at})
    assert found is not None
    assert 98 < found <= 100
