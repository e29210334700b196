"""Digests on real rows: everything that is due to an address in one, once; what became of each is on record."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from psycopg_pool import ConnectionPool
from redis import Redis

from pipelines.catalog import Catalog
from pipelines.fan_out import fan_out
from pipelines.stage import Resources
from schema.delivery import Away, Gone, Later, Unknown
from schema.wire import presence_key
from tests.integration.chain import Chain, Process, Row, Rows, Run, at_once
from tests.integration.timed import SAID, Provider, folders, ids, time_comes
from workers.circuit import Circuit

Send = Callable[..., None]
Tell = Callable[..., list[UUID]]

BY_MAIL = "SELECT id, state, reason, digest_id FROM deliveries WHERE channel = 'email' ORDER BY created_at, id"
OPEN = "SELECT id FROM deliveries WHERE channel <> 'web' AND state IN ('held', 'pending', 'retrying')"
DUE = f"{OPEN} AND next_attempt_at <= clock_timestamp()"
READ = "UPDATE notifications SET read_at = now() WHERE title LIKE %s"
OPT_OUT = "INSERT INTO opt_outs (user_id, channel, category) VALUES ('ada', 'email', %s)"


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.load(folders(tmp_path_factory.mktemp("timed")))


@pytest.fixture
def use(pool: ConnectionPool, client: Redis, templates: Catalog) -> Resources:
    return Resources(pool, client, templates, frozenset({"web", "email", "push", "fcm", "webpush"}))


@pytest.fixture
def send(process: Process, use: Resources, rows: Rows) -> Send:
    """send(provider): what a worker does with a message of all that is open."""
    from workers.deliver import deliver

    def sent(provider: Provider, which: list[UUID] | None = None) -> None:
        deliver(provider, ids(rows(OPEN)) if which is None else which, use, Circuit("email"))

    return sent


@pytest.fixture
def tell(chain: Chain, run: Run) -> Tell:
    """tell("A", "B", type="note", user="ada"): notifications with these words, one event after the other."""

    def told(*words: str, type: str = "note", user: str = "ada", **event: object) -> None:
        run("INSERT INTO users (id, email) VALUES (%s, %s) ON CONFLICT DO NOTHING", user, f"{user}@example.com")
        events = [
            {"type": type, "recipients": [user], "data": SAID | {"comment": word}, **event} for word in words
        ]
        for one in events:
            assert "email" not in chain.route(one)

    return told


def states(found: list[Row]) -> list[tuple[str, str | None]]:
    return [(row["state"], row["reason"]) for row in found]


def test_many_go_out_in_one_in_order_with_their_true_number(tell: Tell, send: Send, rows: Rows, run: Run) -> None:
    tell(*(f"word {number:02}" for number in range(25)))
    assert states(rows(BY_MAIL)) == [("held", "digest")] * 25
    time_comes(run)
    provider = Provider()
    send(provider)
    (parcel,) = provider.asked
    assert parcel.digest is not None
    assert [line.title for line in parcel.digest.lines] == [f"word {number:02} from Bob" for number in range(20)]
    assert (parcel.digest.total, parcel.title) == (25, "25 new notifications")
    found = rows(BY_MAIL)
    assert Counter(row["state"] for row in found) == {"sent": 1, "digested": 24}
    assert {row["digest_id"] for row in found} == {parcel.delivery}
    send(provider)
    assert len(provider.asked) == 1


def test_a_window_begins_with_the_first_and_the_next_after_it_is_sent(
    tell: Tell, send: Send, rows: Rows, run: Run
) -> None:
    tell("A", "B", "C")
    (window,) = rows(
        "SELECT digest_due, digest_due - min(created_at) AS lasts FROM deliveries WHERE state = 'held' GROUP BY 1"
    )
    assert timedelta(minutes=59) < window["lasts"] <= timedelta(minutes=60, seconds=30)
    provider = Provider()
    time_comes(run)
    send(provider)
    tell("D")
    send(provider, ids(rows(DUE)))
    assert provider.told == [["A from Bob", "B from Bob", "C from Bob"]]
    time_comes(run)
    send(provider)
    assert provider.told[1:] == [["D from Bob"]]


def test_what_is_not_due_is_not_gathered(tell: Tell, send: Send, rows: Rows) -> None:
    tell("A", "B")
    provider = Provider()
    send(provider)
    assert provider.asked == []
    assert states(rows(BY_MAIL)) == [("held", "digest")] * 2


def test_a_daily_and_a_weekly_one_of_the_same_moment_are_one(tell: Tell, send: Send, rows: Rows, run: Run) -> None:
    run("INSERT INTO users (id, email, time_zone) VALUES ('ada', 'ada@example.com', 'Europe/Berlin')")
    tell("A", type="daily")
    (daily,) = rows("SELECT digest_due FROM deliveries WHERE channel = 'email'")
    weekday = (datetime.now(UTC) + timedelta(days=1)).isoweekday()
    run("UPDATE users SET digest_day = %s", weekday)
    tell("B", type="weekly")
    run("UPDATE deliveries SET digest_due = %s WHERE channel = 'email'", daily["digest_due"])
    time_comes(run)
    provider = Provider()
    send(provider)
    assert provider.told == [["A from Bob", "B from Bob"]]
    assert provider.asked[0].digest
    assert provider.asked[0].digest.categories == {"social", "news"}


def test_the_hour_is_the_users_own(tell: Tell, rows: Rows, run: Run) -> None:
    run(
        "INSERT INTO users (id, email, time_zone, digest_at) VALUES"
        " ('ada', 'a@example.com', 'Australia/Lord_Howe', '06:45')"
    )
    tell("A", type="daily")
    (found,) = rows(
        "SELECT (digest_due AT TIME ZONE 'Australia/Lord_Howe')::time::text AS local, digest_due > now() AS ahead,"
        " digest_due = next_attempt_at AS waits FROM deliveries WHERE channel = 'email'"
    )
    assert found == {"local": "06:45:00", "ahead": True, "waits": True}


@pytest.mark.parametrize(
    ("meanwhile", "reason"),
    [
        (lambda run: run(READ, "B%"), "read"),
        (lambda run: run("UPDATE notifications SET expires_at = now() WHERE title LIKE 'B%%'"), "expired"),
        (lambda run: run(OPT_OUT, "news"), "opted_out"),
        (
            lambda run: run(
                "INSERT INTO notification_preferences (user_id, scope, type, enabled)"
                " VALUES ('ada', 'type', 'echo', false)"
            ),
            "muted",
        ),
    ],
    ids=["read", "expired", "opted out", "muted"],
)
def test_what_nobody_wants_any_more_is_left_out(
    meanwhile: Callable[[Run], object], reason: str, tell: Tell, send: Send, rows: Rows, run: Run
) -> None:
    tell("A")
    tell("B", type="echo")
    tell("C")
    meanwhile(run)
    time_comes(run)
    provider = Provider()
    send(provider)
    assert provider.told == [["A from Bob", "C from Bob"]]
    left = [row for row in rows(BY_MAIL) if row["state"] not in ("sent", "digested")]
    assert states(left) == [("expired" if reason == "expired" else "suppressed", reason)]
    assert [row["digest_id"] for row in left] == [None]


def test_another_takes_the_place_of_the_one_that_carries(tell: Tell, send: Send, rows: Rows, run: Run) -> None:
    tell("A", "B", "C")
    run(READ, "A%")
    time_comes(run)
    provider = Provider()
    send(provider)
    assert provider.told == [["B from Bob", "C from Bob"]]
    assert states(rows(BY_MAIL)) == [("suppressed", "read"), ("sent", None), ("digested", "digest")]
    assert {row["digest_id"] for row in rows(BY_MAIL)[1:]} == {provider.asked[0].delivery}
    assert rows("SELECT number, outcome FROM attempts") == [{"number": 1, "outcome": "sent"}]


@pytest.mark.parametrize(
    "how", [lambda run: run(READ, "%"), lambda run: run(OPT_OUT, "")], ids=["read", "opted out"]
)
def test_an_empty_digest_is_not_sent(
    how: Callable[[Run], object], tell: Tell, send: Send, rows: Rows, run: Run
) -> None:
    tell("A", "B", "C")
    how(run)
    time_comes(run)
    provider = Provider()
    send(provider)
    assert provider.asked == []
    assert {row["state"] for row in rows(BY_MAIL)} == {"suppressed"}
    assert rows("SELECT * FROM attempts") == []


@pytest.mark.parametrize("answer", [Later("deferred"), Unknown("timeout"), Away("busy")])
def test_a_digest_that_was_not_taken_is_tried_again_as_it_is(
    answer: Any, tell: Tell, send: Send, rows: Rows, run: Run
) -> None:
    """What comes meanwhile is of the next one; what is read meanwhile is left out."""
    tell("A", "B", "C")
    time_comes(run)
    provider = Provider(answer)
    send(provider)
    assert Counter(row["state"] for row in rows(BY_MAIL)) == {"retrying": 1, "digested": 2}
    tell("D")
    run(READ, "B%")
    run("UPDATE deliveries SET next_attempt_at = now() WHERE state = 'retrying'")
    send(provider, ids(rows(DUE)))
    assert provider.told == [["A from Bob", "B from Bob", "C from Bob"], ["A from Bob", "C from Bob"]]
    assert provider.asked[0].delivery == provider.asked[1].delivery
    assert states(rows(BY_MAIL)) == [
        ("sent", None), ("suppressed", "read"), ("digested", "digest"), ("held", "digest")
    ]  # fmt: skip


def test_a_provider_that_is_away_finds_them_where_they_were(
    tell: Tell, process: Process, use: Resources, rows: Rows, run: Run
) -> None:
    """Those that were not gathered yet stay held; nothing is tried."""
    from workers.deliver import deliver

    tell("A", "B")
    time_comes(run)
    circuit, provider = Circuit("email"), Provider()
    circuit.hear([Away("busy")])
    deliver(provider, ids(rows(OPEN)), use, circuit)
    assert provider.asked == []
    assert states(rows(BY_MAIL)) == [("held", "digest")] * 2
    time_comes(run)
    deliver(provider, ids(rows(OPEN)), use, Circuit("email"))
    assert provider.told == [["A from Bob", "B from Bob"]]


def test_the_end_of_a_digest_is_that_of_the_one_that_carries_it(
    tell: Tell, send: Send, rows: Rows, run: Run
) -> None:
    tell("A", "B")
    time_comes(run)
    send(Provider(Gone("mailbox_unknown")))
    assert states(rows(BY_MAIL)) == [("failed", "mailbox_unknown"), ("digested", "digest")]


def test_each_device_has_its_own(tell: Tell, send: Send, run: Run, rows: Rows) -> None:
    run("INSERT INTO users (id, email) VALUES ('ada', 'ada@example.com')")
    for address in ("one", "two"):
        run("INSERT INTO devices (user_id, kind, address) VALUES ('ada', 'fcm_token', %s)", address)
    tell("A", "B")
    time_comes(run)
    provider = Provider(name="fcm", serves="push")
    send(provider, ids(rows("SELECT id FROM deliveries WHERE channel = 'fcm'")))
    assert sorted(one.address for one in provider.asked) == ["one", "two"]
    assert provider.told == [["A from Bob", "B from Bob"]] * 2
    assert {one.title for one in provider.asked} == {"2 new notifications"}
    assert {one.action_url for one in provider.asked} == {"/notifications"}


def test_critical_ones_do_not_wait(chain: Chain, run: Run, rows: Rows) -> None:
    run("INSERT INTO users (id, email) VALUES ('ada', 'ada@example.com')")
    routed = chain.route({"type": "note", "importance": "critical", "data": SAID})
    assert len(routed["email"]) == 1
    assert states(rows(BY_MAIL)) == [("pending", None)]


def test_a_repeated_batch_holds_nothing_twice(chain: Chain, run: Run, rows: Rows) -> None:
    batch = chain.ready({"type": "note", "id": "n-1", "data": SAID})
    for _ in range(2):
        fan_out(batch, chain.use)
    assert len(rows(BY_MAIL)) == 1


def test_a_digest_is_for_whoever_looks_too(tell: Tell, send: Send, client: Redis, run: Run) -> None:
    """Its types may be told "if offline" by now; the others of it were gathered for this one."""
    tell("A", "B")
    run(
        "INSERT INTO notification_preferences (user_id, scope, type, channels)"
        """ VALUES ('ada', 'type', 'note', '{"email": "if offline"}')"""
    )
    client.set(presence_key("ada"), "here")
    time_comes(run)
    provider = Provider()
    send(provider)
    assert provider.told == [["A from Bob", "B from Bob"]]


class Killed(BaseException):
    """The process ends here."""


STEPS = {
    "gathered": ("workers.digests", "claim"),
    "claimed": ("workers.digests", "read_members"),
    "members left out": ("workers.digests", "take_over"),
    "completed": ("workers.presence", "unless_looking"),
    "sent": ("workers.quiet", "settle"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("read", ["", "A%", "B%"], ids=["none read", "the first read", "the second read"])
def test_whoever_dies_between_two_steps_leaves_one_digest(
    step: str, read: str, tell: Tell, send: Send, rows: Rows, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """After each step; the lease ends, and the clock's next rounds find it. Sent before, it is the same again."""
    from workers import clock

    def die(*_: object, **__: object) -> None:
        raise Killed

    tell("A", "B", "C", "D")
    run(READ, read)
    time_comes(run)
    provider = Provider()
    with monkeypatch.context() as patched:
        patched.setattr(".".join(STEPS[step]), die)
        with pytest.raises(Killed):
            send(provider)
    for _ in range(3):
        time_comes(run)
        clock.end_leases()
        send(provider)
    wanted = [f"{word} from Bob" for word in "ABCD" if f"{word}%" != read]
    assert provider.told == [wanted] * (2 if step == "sent" else 1)
    assert len({one.delivery for one in provider.asked}) == 1
    found = Counter(row["state"] for row in rows(BY_MAIL))
    assert found == Counter({"sent": 1, "digested": len(wanted) - 1}) + Counter({"suppressed": 4 - len(wanted)})


def test_twenty_workers_and_clocks_at_once_send_one(tell: Tell, send: Send, rows: Rows, run: Run) -> None:
    """Each has a message of its own with some of the deliveries."""
    tell(*(f"word {number:02}" for number in range(20)))
    tell("other", user="bob")
    time_comes(run)
    waiting, provider = ids(rows(OPEN)), Provider()
    at_once(20, lambda number: send(provider, [waiting[number], waiting[(number + 7) % 21], waiting[20]]))
    assert sorted((one.user, one.digest.total) for one in provider.asked if one.digest) == [
        ("ada", 20),
        ("bob", 1),
    ]
    assert Counter(row["state"] for row in rows(BY_MAIL)) == {"sent": 2, "digested": 19}


def test_while_producers_write_no_moment_has_two_digests_and_nothing_is_lost(
    chain: Chain, process: Process, rows: Rows, run: Run
) -> None:
    """Windows of a second end and begin while four write and sixteen send: each moment of each user has one."""
    from workers import clock
    from workers.deliver import deliver

    users = ("ada", "bob")
    for user in users:
        run("INSERT INTO users (id, email) VALUES (%s, %s)", user, f"{user}@example.com")
    provider, over = Provider(), threading.Event()

    def write(number: int) -> int:
        written = 0
        until = time.monotonic() + 4
        while time.monotonic() < until and written < 200:
            user = users[number % 2]
            chain.route({"type": "tick", "recipients": [user], "data": SAID, "id": f"{number}-{written}"})
            written += 1
        return written

    def work(number: int) -> int:
        if number < 4:
            return write(number)
        while not over.is_set():
            if number < 8:
                clock.send_due_deliveries()
            deliver(provider, ids(rows(DUE)), chain.use, Circuit("email"))
        return 0

    def watched(number: int) -> int:
        try:
            return work(number)
        finally:
            with lock:
                left.discard(number)
                if not left & {0, 1, 2, 3}:
                    over.set()

    lock, left = threading.Lock(), set(range(20))
    written = sum(at_once(20, watched))
    time_comes(run)
    deliver(provider, ids(rows(OPEN)), chain.use, Circuit("email"))
    assert written == sum(one.digest.total for one in provider.asked if one.digest)
    assert len({one.delivery for one in provider.asked}) == len(provider.asked)
    found = rows("SELECT user_id, digest_due, state, digest_id FROM deliveries WHERE channel = 'email'")
    assert len(found) == written
    assert {row["state"] for row in found} <= {"sent", "digested"}
    carried: dict[tuple[str, datetime], set[UUID]] = defaultdict(set)
    for row in found:
        carried[row["user_id"], row["digest_due"]].add(row["digest_id"])
    assert max(map(len, carried.values())) == 1
    assert len(provider.asked) > 2


def test_a_window_begins_when_the_inbox_is_locked_and_not_before(
    chain: Chain, rows: Rows, run: Run, pool: ConnectionPool, eventually: Callable[..., object]
) -> None:
    """Whoever gathers holds the lock: what waits for it meanwhile is of the next digest, also by its time."""
    run("INSERT INTO users (id, email) VALUES ('ada', 'ada@example.com')")
    run("INSERT INTO inboxes (user_id) VALUES ('ada')")
    batch = chain.ready({"type": "note", "data": SAID})
    with pool.connection() as gathering, ThreadPoolExecutor(1) as threads:
        with gathering.transaction():
            gathering.execute("SELECT FROM inboxes WHERE user_id = 'ada' FOR UPDATE")
            writing = threads.submit(fan_out, batch, chain.use)
            eventually(lambda: rows("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
            ((ended,),) = gathering.execute("SELECT clock_timestamp()")
        writing.result(30)
    (held,) = rows("SELECT digest_due FROM deliveries WHERE state = 'held'")
    assert held["digest_due"] >= ended + timedelta(hours=1)


def test_one_that_ends_before_the_next_try_does_not_end_the_digest_it_carries(
    tell: Tell, send: Send, rows: Rows, run: Run
) -> None:
    tell("A", expires_at=(datetime.now(UTC) + timedelta(seconds=20)).isoformat())
    tell("B", "C")
    time_comes(run)
    provider = Provider(Later("greylisted", wait=60))
    send(provider)
    run("UPDATE notifications SET expires_at = now() WHERE expires_at IS NOT NULL")
    time_comes(run)
    send(provider)
    assert provider.told == [["A from Bob", "B from Bob", "C from Bob"], ["B from Bob", "C from Bob"]]
    assert Counter(row["state"] for row in rows(BY_MAIL)) == {"expired": 1, "sent": 1, "digested": 1}


def test_one_that_carried_before_may_carry_again(tell: Tell, send: Send, rows: Rows, run: Run) -> None:
    """It was tried; then it goes along with an older one, which is read meanwhile. The first try stays on
    record."""
    tell("Y", "X", "Z")
    older, *others = ids(rows(OPEN))
    time_comes(run)
    run("UPDATE deliveries SET digest_due = now() + interval '1 hour' WHERE id = %s", older)
    send(Provider(Later("deferred")), others)
    run("UPDATE deliveries SET state = 'held', digest_due = now() WHERE id = %s", others[0])
    time_comes(run)
    run(READ, "Y%")
    provider = Provider()
    send(provider)
    assert provider.told == [["X from Bob", "Z from Bob"]]
    assert states(rows(BY_MAIL)) == [("suppressed", "read"), ("sent", None), ("digested", "digest")]
    tries = rows("SELECT number, outcome FROM attempts WHERE delivery_id = %s ORDER BY number", others[0])
    assert [tuple(row.values()) for row in tries] == [(1, "later"), (2, "sent")]


def test_cancelling_says_of_a_digest_that_waits_that_it_will_leave_it_out(
    tell: Tell, send: Send, chain: Chain, run: Run
) -> None:
    from workers.cancellation import cancel

    tell("A", id="a")
    tell("B", id="b")
    time_comes(run)
    provider = Provider(Later("deferred"))
    send(provider)
    with chain.use.pool.connection() as connection:
        found = [cancel(connection, id_) for id_ in ("a", "b")]
    assert [(one.channels["email"].cancelled, one.channels["email"].sent) for one in found if one] == [
        (1, 0),
        (1, 0),
    ]
    time_comes(run)
    send(provider)
    assert len(provider.asked) == 1
