"""Cancelling: what is sent stays sent, what is not sent never is, and the answer says which."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from pipelines.fan_out import fan_out
from pipelines.stage import Resources
from tests.integration.chain import CONTENT, Chain, Rows, Run, at_once
from workers import cancellation
from workers.cancellation import Cancelled

Cancel = Callable[..., Cancelled]


@pytest.fixture
def use(use: Resources) -> Resources:
    """A fleet that sends mails, too."""
    return Resources(use.pool, use.redis, use.catalog, frozenset({"web", "email"}))


@pytest.fixture
def cancel(chain: Chain) -> Cancel:
    def cancelled(id_: str = "c-1") -> Cancelled:
        with chain.use.pool.connection() as connection:
            found = cancellation.cancel(connection, id_)
        assert found
        return found

    return cancelled


@pytest.fixture
def mailed(run: Run, rows: Rows) -> Callable[..., None]:
    """mailed("ada", "bob"): users who take comments by mail."""

    def made(*users: str) -> None:
        for user in users:
            run("INSERT INTO users (id, email) VALUES (%s, %s)", user, f"{user}@example.org")
            run(
                "INSERT INTO notification_preferences (user_id, type, channels)"
                " VALUES (%s, 'comment', '{\"email\": true}')",
                user,
            )

    return made


def told(found: Cancelled) -> dict[str, tuple[int, int, int]]:
    return {name: (one.cancelled, one.sent, one.ended) for name, one in found.channels.items()}


MAILS = "UPDATE deliveries SET state = %s, reason = %s WHERE channel = 'email' AND user_id = %s"


@pytest.mark.parametrize(
    ("state", "reason", "email", "after"),
    [
        ("pending", None, (1, 0, 0), "suppressed"),
        ("retrying", "smtp_421", (1, 0, 0), "suppressed"),
        ("held", "unread", (1, 0, 0), "suppressed"),
        ("held", "quiet_hours", (1, 0, 0), "suppressed"),
        ("sending", None, (0, 1, 0), "sending"),
        ("sent", None, (0, 1, 0), "sent"),
        ("digested", "digest", (0, 1, 0), "digested"),
        ("suppressed", "read", (0, 0, 1), "suppressed"),
        ("expired", "expired", (0, 0, 1), "expired"),
        ("failed", "smtp_550", (0, 0, 1), "failed"),
        ("dead", "smtp_421", (0, 0, 1), "dead"),
    ],
)
def test_what_becomes_of_a_delivery(
    chain: Chain,
    rows: Rows,
    run: Run,
    mailed: Any,
    cancel: Cancel,
    state: str,
    reason: str,
    email: Any,
    after: str,
) -> None:
    """Web: in the inbox since it was written, and it stays there."""
    mailed("ada")
    chain.route({"id": "c-1"})
    run(MAILS, state, reason, "ada")
    found = cancel()
    assert (found.was, found.recipients, found.routed) == ("routed", 1, 1)
    assert told(found) == {"email": email, "web": (0, 1, 0)}
    assert rows("SELECT state FROM deliveries WHERE channel = 'email'") == [{"state": after}]
    assert rows(
        "SELECT unread, (SELECT count(*) FROM notifications WHERE archived_at IS NULL) AS rows FROM inboxes"
    ) == [{"unread": 1, "rows": 1}]
    assert cancel() == found


def test_the_answer_in_words(chain: Chain, run: Run, mailed: Any, cancel: Cancel) -> None:
    mailed("ada", "bob", "cleo")
    chain.route({"id": "c-1", "recipients": ["ada", "bob", "cleo"]})
    run(MAILS, "sent", None, "ada")
    run(MAILS, "suppressed", "read", "bob")
    assert cancel().says == (
        "was cancelled when it had been written for all 3 "
        "(email: 1 cancelled, 1 sent, 1 had ended before; web: 0 cancelled, 3 sent)"
    )
    chain.accept({"id": "c-2"})
    assert cancel("c-2").says == "was cancelled before anything was written"


def test_before_it_was_routed_nobody_hears_of_it(chain: Chain, rows: Rows, cancel: Cancel, dump: Any) -> None:
    batch = chain.ready({"id": "c-1", "recipients": ["ada", "bob"]}, {"id": "c-2", "recipients": ["ada"]})
    found = cancel()
    assert (found.was, found.recipients, found.routed, found.channels) == ("waiting", 2, 0, {})
    assert len(fan_out(batch, chain.use)["web"]) == 1
    assert rows("SELECT event_id, user_id FROM notifications") == [{"event_id": "c-2", "user_id": "ada"}]
    before = dump()
    assert cancel() == found
    assert dump() == before


def test_an_event_that_waits_for_its_time_has_no_timer_any_more(chain: Chain, rows: Rows, cancel: Cancel) -> None:
    chain.accept(
        {"id": "c-1", "send_at": "2100-01-01T00:00:00Z"}, {"id": "c-2", "send_at": "2100-01-01T00:00:00Z"}
    )
    assert cancel().was == "waiting"
    assert rows("SELECT subject FROM timers") == [{"subject": "c-2"}]


def test_half_of_it_routed(chain: Chain, rows: Rows, mailed: Any, cancel: Cancel) -> None:
    mailed("ada", "bob")
    batch = chain.ready({"id": "c-1", "recipients": ["ada", "bob"]})
    fan_out(batch[:1], chain.use)
    found = cancel()
    assert (found.was, found.recipients, found.routed) == ("partly_routed", 2, 1)
    assert told(found) == {"email": (1, 0, 0), "web": (0, 1, 0)}
    assert fan_out(batch, chain.use) == {}
    assert [row["user_id"] for row in rows("SELECT user_id FROM notifications")] == ["ada"]
    assert cancel() == found


def test_it_is_neither_rescued_nor_backlog_and_a_repeat_does_not_revive_it(
    process: Any, chain: Chain, rows: Rows, run: Run, cancel: Cancel
) -> None:
    from workers import clock, status, timeline

    chain.accept({"id": "c-1"})
    cancel()
    run("UPDATE events SET accepted_at = accepted_at - interval '1 hour'")
    assert (clock.rescue_events(), chain.accept({"id": "c-1"})) == (0, [])
    with chain.use.pool.connection() as connection:
        found = timeline.of_event(connection, "c-1")
        assert not [row for row in status.rows(connection) if row.state == "unrouted" and row.count]
    assert found
    assert (found.state, [one.state for one in found.notifications]) == ("cancelled", ["cancelled"])


def test_a_key_cancels_what_carries_it_a_page_at_a_time(
    chain: Chain, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "MOST", 2)
    chain.accept(
        *({"id": f"r-{n}", "cancel_key": "order-7"} for n in range(3)), {"id": "other", "cancel_key": "order-8"}
    )
    with chain.use.pool.connection() as connection:
        first = cancellation.cancel_all(connection, "order-7")
        second = cancellation.cancel_all(connection, "order-7", first.next or "")
        assert cancellation.cancel_all(connection, "nobodys").events == []
        again = cancellation.cancel_all(connection, "order-7")
    assert ([one.id for one in first.events], first.next) == (["r-0", "r-1"], "r-1")
    assert ([one.id for one in second.events], second.next) == (["r-2"], None)
    assert again == first
    assert rows("SELECT id FROM events WHERE cancelled_at IS NULL") == [{"id": "other"}]


def test_whom_nobody_knows(chain: Chain) -> None:
    with chain.use.pool.connection() as connection:
        assert cancellation.cancel(connection, "nobodys") is None


def test_cancelled_or_written_and_never_both(chain: Chain, rows: Rows, cancel: Cancel) -> None:
    """Each event is cancelled while it is written; its neighbours in the batch are written whatever happens."""
    events = [
        {"id": f"c-{n}", "recipients": [f"user-{n}", "all"], "type": "payment", "data": PAYMENT} for n in range(20)
    ]
    batch = chain.ready(*events)
    answers: list[Cancelled] = []

    def work(number: int) -> None:
        if number < 3:
            fan_out(batch, chain.use)
        else:
            answers.extend(cancel(f"c-{n}") for n in range(number - 3, 10, 3))

    at_once(6, work)
    written = {
        row["event_id"]: row["count"]
        for row in rows("SELECT event_id, count(*) AS count FROM notifications GROUP BY event_id")
    }
    assert {one.id: one.routed for one in answers} == {f"c-{n}": written.get(f"c-{n}", 0) for n in range(10)}
    assert {one.was for one in answers} <= {"waiting", "routed"}
    assert all(written[f"c-{n}"] == 2 for n in range(10, 20))
    assert rows(SHOWN) == rows("SELECT unread FROM inboxes WHERE user_id = 'all'")


SHOWN = """
SELECT count(*)::int AS unread FROM notifications WHERE user_id = 'all' AND seq IS NOT NULL AND group_id IS NULL
"""
PAYMENT = {"amount": "1", "status": "received", "paymentId": "p"}


def test_a_batch_that_is_refused_begins_anew_without_the_event(
    chain: Chain, rows: Rows, cancel: Cancel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled after its content was read, before it was written."""
    from pipelines import fan_out as writing

    batch = chain.ready({"id": "c-1"}, {"id": "c-2", "recipients": ["bob"]})
    write, calls = writing.write, []

    def late(*given: Any) -> None:
        if not calls:
            calls.append(cancel().was)
        write(*given)

    monkeypatch.setattr(writing, "write", late)
    assert len(fan_out(batch, chain.use)["web"]) == 1
    assert (calls, [row["event_id"] for row in rows("SELECT event_id FROM notifications")]) == (
        ["waiting"],
        ["c-2"],
    )
    assert rows("SELECT unread FROM inboxes WHERE user_id = 'ada'") == [{"unread": 0}]


def test_claimed_or_cancelled_and_never_both(chain: Chain, rows: Rows, mailed: Any, cancel: Cancel) -> None:
    from workers import claims
    from workers.channels import email

    users = [f"user-{n}" for n in range(40)]
    mailed(*users)
    ids: list[UUID] = chain.route({"id": "c-1", "recipients": users})["email"]
    claimed: list[UUID] = []
    answers: list[Cancelled] = []

    def work(number: int) -> None:
        if number == 0:
            answers.append(cancel())
            return
        for first in range(number - 1, 40, 12):
            with chain.use.pool.connection() as connection:
                taken = claims.claim(connection, email, ids[first : first + 4], chain.use.catalog)
            claimed.extend(one.row.delivery for one in taken if one.parcel)

    at_once(4, work)
    states = {row["id"]: row["state"] for row in rows("SELECT id, state FROM deliveries WHERE channel = 'email'")}
    cancelled = {id_ for id_, state in states.items() if state == "suppressed"}
    assert not cancelled & set(claimed)
    assert answers[0].channels["email"].cancelled == len(cancelled)


def test_a_try_after_it_was_cancelled_is_not_made(
    chain: Chain, rows: Rows, run: Run, mailed: Any, cancel: Cancel
) -> None:
    """It was being sent when the event was cancelled, and its provider said: later."""
    from workers import claims
    from workers.channels import email

    mailed("ada")
    ids = chain.route({"id": "c-1"})["email"]
    with chain.use.pool.connection() as connection:
        claims.claim(connection, email, ids, chain.use.catalog)
        assert told(cancel())["email"] == (0, 1, 0)
        run("UPDATE deliveries SET state = 'retrying', next_attempt_at = now() WHERE channel = 'email'")
        (one,) = claims.claim(connection, email, ids, chain.use.catalog)
    assert one.decided
    assert (one.decided.state, one.decided.reason) == ("suppressed", "cancelled")


def test_at_the_sql_door(chain: Chain, rows: Rows, run: Run, cancel: Cancel, process: Any) -> None:
    """Cancelled before intake has looked at it."""
    import json

    from workers import intake

    for id_ in ("c-1", "c-2"):
        run(
            "INSERT INTO events (id, type, recipients, data, cancel_key, send_at)"
            " VALUES (%s, 'comment', '[\"ada\"]', %s, 'k', now() + interval '1 hour')",
            id_,
            json.dumps(CONTENT),
        )
    assert cancel().was == "waiting"
    with chain.use.pool.connection() as connection, connection.transaction():
        assert intake.take_rows(connection) == (2, [])
    assert rows("SELECT subject FROM timers") == [{"subject": "c-2"}]
    assert rows("SELECT id FROM events WHERE routed_count < recipient_count") == [{"id": "c-2"}]
    assert cancel().was == "waiting"
    with chain.use.pool.connection() as connection:
        assert len(cancellation.cancel_all(connection, "k").events) == 2


@pytest.fixture
def mail_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process that has one."""
    monkeypatch.setenv("TOCSIN_SMTP_URL", "smtp://127.0.0.1:9")


@pytest.mark.usefixtures("mail_server", "process")
def test_a_broadcast_stops_half_way(chain: Chain, rows: Rows, run: Run, cancel: Cancel) -> None:
    import msgspec

    from pipelines import audience
    from workers.chain import expand

    with pytest.MonkeyPatch.context() as small:
        small.setattr(audience, "CHUNK", 10)
        small.setattr(cancellation, "ROUND", 3)
        run(
            "INSERT INTO users (id, created_at)"
            " SELECT 'user-' || n, now() - interval '1 h' FROM generate_series(10, 39) AS n"
        )
        run(
            "INSERT INTO notification_preferences (user_id, type, channels)"
            " SELECT id, 'comment', '{\"email\": true}' FROM users"
        )
        chain.accept({"id": "c-1", "recipients": {"all": True}})
        step = msgspec.Raw(b'{"event": "c-1"}')
        expand(step)
        found = cancel()
        expand(step)
        assert (found.was, found.routed, told(found)) == (
            "partly_routed",
            10,
            {"email": (10, 0, 0), "web": (0, 10, 0)},
        )
        assert found.says.startswith("was cancelled when it had been written for 10 of its audience (")
        assert cancel() == found
    assert rows("SELECT count(*) AS count FROM notifications") == [{"count": 10}]
