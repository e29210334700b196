"""Quiet hours on real rows: what is held, until when, in which order it is let go, and what is looked at then."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from redis import Redis

from pipelines.stage import Resources
from schema.delivery import Later, Outcome, Sent
from schema.wire import Publication, user_channel
from tests.integration.chain import Chain, Process, Rows, Run, at_once
from tests.integration.test_claims import Provider
from workers.circuit import Circuit

MINUTE = timedelta(minutes=1)
HOURS = "UPDATE users SET time_zone = %s, quiet_days = %s, quiet_from = %s, quiet_to = %s WHERE id = %s"
WEEK = list(range(1, 8))
FOUND = (
    "SELECT user_id, state, reason, attempt, settled_at IS NOT NULL AS settled FROM deliveries WHERE channel = %s"
)
TIMES = "SELECT next_attempt_at AS at FROM deliveries WHERE user_id = %s AND channel = %s ORDER BY id"
READ = "UPDATE notifications SET read_at = now()"
OPTED_OUT = "INSERT INTO opt_outs (user_id, channel, category) VALUES ('ada', 'email', 'social')"
EXPIRED = "UPDATE notifications SET expires_at = now()"
NO_LONGER_QUIET = "UPDATE users SET quiet_days = NULL, quiet_from = NULL, quiet_to = NULL"

Send = Callable[..., list[str]]
Quiet = Callable[..., datetime]


@pytest.fixture
def use(pool: Any, client: Any, catalog: Any) -> Resources:
    return Resources(pool, client, catalog, frozenset({"web", "email", "push", "fcm"}))


@pytest.fixture
def people(run: Run) -> None:
    """Ada and Bob, who want everything by email and on a phone each."""
    for user in ("ada", "bob"):
        run("INSERT INTO users (id, email) VALUES (%s, %s)", user, f"{user}@example.com")
        run("INSERT INTO inboxes (user_id) VALUES (%s)", user)
        run("INSERT INTO devices (user_id, kind, address) VALUES (%s, 'fcm_token', %s)", user, f"phone of {user}")
        run(
            "INSERT INTO notification_preferences (user_id, scope, type, channels) VALUES (%s, 'global', '',"
            """ '{"email": true, "push": true}')""",
            user,
        )


@pytest.fixture
def quiet(run: Run, people: None) -> Quiet:
    """quiet(): Ada's hours are quiet, from an hour ago to the time it returns. Or from and to other minutes from
    now, in a zone."""

    def set_hours(begin: int = -60, end: int = 60, zone: str = "UTC", days: list[int] = WEEK) -> datetime:
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        at = [(now + minutes * MINUTE).time() for minutes in (begin, end)]
        run(HOURS, zone, days, *at, "ada")
        return now + end * MINUTE

    return set_hours


@pytest.fixture
def send(process: Process, use: Resources) -> Send:
    """send(ids, "fcm"): what a worker does with them; to whom it sent."""
    from workers.deliver import deliver

    def sent(ids: list[UUID], channel: str = "email", answer: Outcome | None = None) -> list[str]:
        provider = Provider(*[answer or Sent()] * len(ids), serves="email" if channel == "email" else "push")
        provider.NAME = channel  # type: ignore[misc]
        deliver(provider, ids, use, Circuit(channel))
        return [parcel.user for parcel in provider.asked]

    return sent


def orders(chain: Chain, count: int, channel: str = "email", **event: Any) -> list[UUID]:
    """So many for Ada, in order, that gather in no group: their deliveries."""
    sample = chain.use.catalog.samples["order"]
    made = list[UUID]()
    for _ in range(count):
        chain.use.redis.flushdb()  # more than the type's limit
        made += chain.route({"type": "order", "data": sample, "recipients": ["ada"], **event})[channel]
    return made


def found(rows: Rows, channel: str = "email") -> dict[str, tuple[Any, ...]]:
    return {row.pop("user_id"): tuple(row.values()) for row in rows(FOUND, channel)}


def test_what_comes_in_quiet_hours_is_held_to_their_end_and_no_try_counts(
    chain: Chain, quiet: Quiet, send: Send, rows: Rows
) -> None:
    ends = quiet()
    routed = chain.route({"recipients": ["ada", "bob"]})
    for channel in ("email", "fcm"):
        assert send(routed[channel], channel) == ["bob"]
        assert found(rows, channel) == {
            "ada": ("held", "quiet_hours", 0, False),
            "bob": ("sent", None, 1, True),
        }
        assert rows(TIMES, "ada", channel) == [{"at": ends}]
    assert rows("SELECT count(*)::int AS tries FROM attempts") == [{"tries": 2}]
    assert found(rows, "web")["ada"][0] == "pending"


@pytest.mark.parametrize(
    ("importance", "begin", "end", "zone", "days", "held"),
    [
        ("normal", -60, 60, "UTC", WEEK, True),
        ("low", -60, 60, "UTC", WEEK, True),
        ("high", -60, 60, "UTC", WEEK, True),
        ("critical", -60, 60, "UTC", WEEK, False),
        ("normal", 60, 120, "UTC", WEEK, False),
        ("normal", -120, -60, "UTC", WEEK, False),
        ("normal", -60, 60, "UTC", [], False),
        ("normal", -60, 60, "Asia/Tokyo", WEEK, False),
        ("normal", 8 * 60, 10 * 60, "Asia/Tokyo", WEEK, True),
    ],
)
def test_who_is_held_and_when(
    importance: str,
    begin: int,
    end: int,
    zone: str,
    days: list[int],
    held: bool,
    chain: Chain,
    quiet: Quiet,
    send: Send,
    run: Run,
) -> None:
    quiet(begin, end, zone, days)
    ids = orders(chain, 1)
    run("UPDATE notifications SET importance = %s", importance)
    assert send(ids) == ([] if held else ["ada"])


@pytest.mark.parametrize(
    ("meanwhile", "state", "reason"),
    [
        (NO_LONGER_QUIET, "sent", None),
        (f"{NO_LONGER_QUIET}; {READ}", "suppressed", "read"),
        (f"{NO_LONGER_QUIET}; {OPTED_OUT}", "suppressed", "opted_out"),
        (f"{NO_LONGER_QUIET}; {EXPIRED}", "expired", "expired"),
        (READ, "suppressed", "read"),
        (EXPIRED, "expired", "expired"),
        ("SELECT", "held", "quiet_hours"),
    ],
)
def test_when_its_time_has_come_it_is_looked_at_once_more(
    meanwhile: str, state: str, reason: str | None, chain: Chain, quiet: Quiet, send: Send, rows: Rows, run: Run
) -> None:
    from workers.due import send_due_deliveries

    quiet()
    (held,) = orders(chain, 1, type="comment", data=chain.use.catalog.samples["comment"])
    send([held])
    assert send_due_deliveries() == 0
    for statement in meanwhile.split("; "):
        run(statement)
    run("UPDATE deliveries SET next_attempt_at = now() WHERE state = 'held'")
    assert send_due_deliveries() == 1
    assert send([held]) == (["ada"] if state == "sent" else [])
    assert found(rows)["ada"][:2] == (state, reason)


def test_a_retry_waits_for_the_morning_and_keeps_its_tries(
    chain: Chain, quiet: Quiet, send: Send, rows: Rows, run: Run
) -> None:
    ends = quiet(-120, -60)
    (late,) = orders(chain, 1)
    send([late], answer=Later("busy"))
    run("UPDATE deliveries SET next_attempt_at = now() WHERE state = 'retrying'")
    ends = quiet()
    assert send([late]) == []
    assert found(rows)["ada"] == ("held", "quiet_hours", 1, False)
    assert rows(TIMES, "ada", "email") == [{"at": ends}]
    run(NO_LONGER_QUIET)
    run("UPDATE deliveries SET next_attempt_at = now() WHERE state = 'held'")
    assert send([late]) == ["ada"]
    assert found(rows)["ada"] == ("sent", None, 2, True)


def test_three_come_at_the_end_and_three_a_minute_then_in_the_order_in_which_they_came(
    chain: Chain, quiet: Quiet, send: Send, rows: Rows
) -> None:
    ends = quiet()
    ids = orders(chain, 8)
    for id_ in ids[::-1]:
        send([id_])
    pushes = orders(chain, 4, "fcm")
    send(pushes, "fcm")
    assert [row["at"] - ends for row in rows(TIMES, "ada", "email")][:8] == [n // 3 * MINUTE for n in range(8)]
    assert [row["at"] - ends for row in rows(TIMES, "ada", "fcm")][-4:] == [n // 3 * MINUTE for n in range(4)]


def test_of_many_workers_each_counts_what_the_others_held(
    chain: Chain, quiet: Quiet, send: Send, rows: Rows
) -> None:
    ends = quiet()
    ids = orders(chain, 16)
    at_once(16, lambda number: send([ids[number]]))
    assert [row["at"] - ends for row in rows(TIMES, "ada", "email")] == [n // 3 * MINUTE for n in range(16)]


def test_the_web_is_told_silently_in_quiet_hours(
    chain: Chain, quiet: Quiet, client: Redis, process: Process, run: Run
) -> None:
    from workers.channels import web
    from workers.deliver import deliver

    heard = client.pubsub(ignore_subscribe_messages=True)
    heard.subscribe(user_channel("ada"), user_channel("bob"))
    heard.get_message(ignore_subscribe_messages=False, timeout=5)
    heard.get_message(ignore_subscribe_messages=False, timeout=5)

    def told(**event: Any) -> dict[str, Any]:
        """What each user's gateways are told of one event."""
        deliver(web, chain.route({"recipients": ["ada", "bob"], **event})["web"], chain.use)
        said = {}
        while len(said) < 2:
            if message := heard.get_message(timeout=5):
                said[message["channel"].decode().rpartition(":")[2]] = message["data"]
        return {
            user: msgspec.json.decode(data, type=Publication).item.silent  # type: ignore[union-attr]
            for user, data in said.items()
            if (b'"silent":true' in data) or (b"silent" not in data)
        }

    quiet()
    assert told() == {"ada": True, "bob": msgspec.UNSET}
    assert told(importance="critical") == {"ada": msgspec.UNSET, "bob": msgspec.UNSET}
    run(NO_LONGER_QUIET)
    assert told() == {"ada": msgspec.UNSET, "bob": msgspec.UNSET}
    heard.close()


def test_hours_that_end_while_a_batch_is_sent_hold_nothing(
    chain: Chain, quiet: Quiet, use: Resources, rows: Rows, run: Run, process: Process
) -> None:
    from workers import quiet as hours
    from workers.deliver import claim, decided

    quiet()
    claimed = claim(Provider(), orders(chain, 1), use)
    run(NO_LONGER_QUIET)
    with use.pool.connection() as connection:
        hours.release(connection, "ada")
        hours.settle(connection, claimed, [decided(one.row, one.decided) for one in claimed if one.decided])
    assert rows("SELECT state, next_attempt_at <= now() AS due FROM deliveries WHERE channel = 'email'") == [
        {"state": "held", "due": True}
    ]


def test_what_was_let_go_in_its_order_keeps_its_place(
    chain: Chain, quiet: Quiet, send: Send, use: Resources, rows: Rows, process: Process
) -> None:
    """A worker is late with one that it held; and somebody saves the same hours once more."""
    from workers.api import times

    quiet()
    send(orders(chain, 7))
    before = rows(TIMES, "ada", "email")
    with use.pool.connection() as connection:
        ends = before[0]["at"] - MINUTE
        from workers.quiet import SPACE, values

        connection.execute(SPACE, values({"ada": ends}))
    assert rows(TIMES, "ada", "email") == before
    times.store("ada", times.get_times.fn("ada"))
    assert rows(TIMES, "ada", "email") == before
