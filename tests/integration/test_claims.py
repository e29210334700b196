"""Deliveries that are claimed before they are sent: what each outcome makes of them, on real rows."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import pytest

from pipelines.stage import Resources
from schema.delivery import Away, Gone, Later, Never, Outcome, Parcel, Sent, Unknown
from tests.integration.chain import Chain, Process, Rows, Run, at_once
from workers.circuit import Circuit

DELIVERIES = (
    "SELECT state, reason, attempt, settled_at IS NOT NULL AS settled, receipt FROM deliveries ORDER BY id"
)
OPT_OUT = "INSERT INTO opt_outs (user_id, channel, category) VALUES ('ada', 'email', 'social')"
BOUNCED = "INSERT INTO suppressed_addresses VALUES ('ada@example.com', 'bounce')"
ATTEMPTS = "SELECT number, outcome, reason, said, ended_at IS NOT NULL AS ended FROM attempts ORDER BY 1"
COUNTS = "SELECT event, sum(count)::int AS count FROM notification_analytics GROUP BY 1 ORDER BY 1"
WAIT = "SELECT extract(epoch FROM next_attempt_at - now())::float AS seconds FROM deliveries"


class Provider(ModuleType):
    """A channel whose provider gives these answers, one after the other; `asked` are the parcels it was given."""

    NAME = "email"
    SERVES = "email"
    SCHEDULE: tuple[float, ...] = (10, 100)
    BATCH = 100
    LEASE = 60

    def __init__(self, *answers: Outcome, serves: str = "email") -> None:
        super().__init__("provider")
        self.answers = list(answers)
        self.asked: list[Parcel] = []
        self.SERVES = serves
        self.meanwhile: Callable[[], object] = lambda: None

    def send(self, parcels: Sequence[Parcel], _: Resources) -> list[Outcome]:
        self.asked += parcels
        self.meanwhile()
        return [self.answers.pop(0) for _ in parcels]


Send = Callable[..., None]


@pytest.fixture
def use(pool: Any, client: Any, catalog: Any) -> Resources:
    return Resources(pool, client, catalog, frozenset({"web", "email", "push", "fcm", "webpush"}))


@pytest.fixture
def send(process: Process, use: Resources) -> Send:
    """send(provider, ids): what a worker does with a message of these deliveries, with a circuit of its own."""
    from workers.deliver import deliver

    return lambda provider, ids, circuit=None: deliver(provider, ids, use, circuit or Circuit("email"))


@pytest.fixture
def mail(chain: Chain, run: Run) -> Callable[..., list[UUID]]:
    """mail("ada", …): ids of their deliveries by email of one comment, which is `event`."""

    def made(*users: str, **event: object) -> list[UUID]:
        for user in users:
            run(
                "INSERT INTO users (id, email) VALUES (%s, %s) ON CONFLICT DO NOTHING", user, f"{user}@example.com"
            )
            run(
                "INSERT INTO notification_preferences (user_id, type, channels) VALUES (%s, 'comment',"
                """ '{"email": true, "push": true}') ON CONFLICT DO NOTHING""",
                user,
            )
        return list(chain.route({"recipients": list(users), **event})["email"])

    return made


def row(state: str, reason: str | None = None, attempt: int = 1, receipt: str | None = None) -> dict[str, Any]:
    settled = state != "retrying"
    return {"state": state, "reason": reason, "attempt": attempt, "settled": settled, "receipt": receipt}


def tried(number: int, outcome: str, reason: str | None = None, said: str | None = None) -> dict[str, Any]:
    return {"number": number, "outcome": outcome, "reason": reason, "said": said, "ended": True}


def due(run: Run) -> None:
    run("UPDATE deliveries SET next_attempt_at = now() WHERE state = 'retrying'")


def test_what_was_sent_is_settled_with_its_try_and_not_sent_again(send: Send, mail: Any, rows: Rows) -> None:
    ids = mail("ada")
    provider = Provider(Sent("queued as 7"))
    send(provider, ids)
    send(provider, ids)
    (parcel,) = provider.asked
    assert (parcel.user, parcel.address, parcel.type, parcel.attempt) == ("ada", "ada@example.com", "comment", 1)
    assert (parcel.title, parcel.category, parcel.unread) == ("New comment from Bob", "social", 1)
    assert row("sent", receipt="queued as 7") in rows(DELIVERIES)
    assert rows(ATTEMPTS) == [tried(1, "sent")]
    assert {"event": "sent", "count": 1} in rows(COUNTS)


def test_later_waits_its_schedule_and_is_dead_when_that_is_spent(
    send: Send, mail: Any, rows: Rows, run: Run
) -> None:
    ids = mail("ada")
    run("DELETE FROM deliveries WHERE channel = 'web'")
    provider = Provider(*(Later("deferred", f"450 try {number}") for number in (1, 2, 3)))
    for number, seconds in ((1, 10), (2, 100)):
        send(provider, ids)
        assert rows(DELIVERIES) == [row("retrying", "deferred", number)]
        assert 0.75 * seconds < rows(WAIT)[0]["seconds"] < 1.2 * seconds
        due(run)
    send(provider, ids)
    assert rows(DELIVERIES) == [row("dead", "deferred", 3)]
    assert rows(ATTEMPTS) == [tried(n, "later", "deferred", f"450 try {n}") for n in (1, 2, 3)]


def test_a_provider_that_names_a_time_is_given_it(send: Send, mail: Any, rows: Rows, run: Run) -> None:
    ids = mail("ada")
    run("DELETE FROM deliveries WHERE channel = 'web'")
    send(Provider(Later("slow down", wait=900)), ids)
    assert 890 < rows(WAIT)[0]["seconds"] <= 900


def test_a_second_message_is_not_a_second_try(send: Send, mail: Any, rows: Rows, run: Run) -> None:
    """One that is to wait for minutes waits, and goes on waiting, whatever comes twice."""
    ids = mail("ada")
    run("DELETE FROM deliveries WHERE channel = 'web'")
    provider, away = Provider(Later("deferred", wait=900)), Circuit("email")
    send(provider, ids)
    send(provider, ids)
    away.hear([Away("gone")])
    send(provider, ids, away)
    assert rows(DELIVERIES) == [row("retrying", "deferred")]
    assert 890 < rows(WAIT)[0]["seconds"] <= 900


def test_what_would_be_tried_when_it_is_no_news_has_expired(send: Send, mail: Any, rows: Rows, run: Run) -> None:
    ids = mail("ada")
    run("DELETE FROM deliveries WHERE channel = 'web'")
    run("UPDATE notifications SET expires_at = now() + interval '5 min'")
    send(Provider(Later("deferred", wait=900)), ids)
    assert rows(DELIVERIES) == [row("expired", "deferred")]


def test_an_answer_outlives_an_outage_of_postgres(
    send: Send, mail: Any, rows: Rows, run: Run, use: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept in hand until it is written down, and nothing is sent again."""
    ids = mail("ada")
    run("DELETE FROM deliveries WHERE channel = 'web'")
    provider = Provider(Sent("queued as 7"))

    def cut() -> None:
        run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database() AND backend_type = 'client backend'"
        )

    provider.meanwhile = cut
    send(provider, ids)
    assert len(provider.asked) == 1
    assert rows(DELIVERIES) == [row("sent", receipt="queued as 7")]


def test_a_claim_looks_up_ids_also_where_nothing_was_analyzed(mail: Any, run: Run, use: Resources) -> None:
    """An index of open deliveries holds the whole backlog, and is not walked for twenty of them."""
    from workers import claims, settlements

    ids = mail("ada")
    run(
        "INSERT INTO deliveries (id, notification_id, user_id, channel, state) SELECT"
        " overlay(id::text placing lpad(to_hex(n), 12, '0') from 25)::uuid, notification_id, 'u', 'email', 'sent'"
        " FROM deliveries, generate_series(1, 2000) n WHERE channel = 'email'"
    )
    run("ANALYZE deliveries")
    run("UPDATE deliveries SET state = 'pending' WHERE user_id = 'u'")
    twenty = [*ids, *(uuid4() for _ in range(19))]
    one = settlements.Settled(ids[0], 1, "comment", "sent", "sent")
    columns = {name: [value] * 20 for name, value in one._asdict().items()} | {"id": twenty}
    for statement, arguments in (
        (
            claims._CLAIM + claims.ALL_THERE_IS,
            {"ids": twenty, "lease": timedelta(1), "serves": "email", "early": timedelta()},
        ),
        (settlements._SETTLE, columns | {"claimed_at": datetime.now(UTC)}),
    ):
        with use.pool.connection() as connection:
            plan = "\n".join(line for (line,) in connection.execute("EXPLAIN " + statement, arguments))
        assert "next_attempt_at_idx" not in plan
        assert "deliveries_open" not in plan


def test_unknown_is_tried_again_and_counted(send: Send, mail: Any, rows: Rows, run: Run) -> None:
    ids = mail("ada")
    run("DELETE FROM deliveries WHERE channel = 'web'")
    provider = Provider(Unknown("connection_lost"), Sent())
    send(provider, ids)
    assert rows(DELIVERIES) == [row("retrying", "connection_lost")]
    send(provider, ids)
    assert rows(DELIVERIES) == [row("sent", attempt=2)]
    assert rows(ATTEMPTS) == [tried(1, "unknown", "connection_lost"), tried(2, "sent")]
    assert {"event": "possible_duplicate", "count": 1} in rows(COUNTS)


def test_a_provider_that_is_away_costs_no_try_and_is_not_asked_again(
    send: Send, mail: Any, rows: Rows, run: Run
) -> None:
    ids = mail("ada", "bob")
    run("DELETE FROM deliveries WHERE channel = 'web'")
    provider, circuit = Provider(Away("refused"), Away("refused")), Circuit("email")
    send(provider, ids[:1], circuit)
    send(provider, ids, circuit)
    assert len(provider.asked) == 1
    assert {(one["state"], one["attempt"]) for one in rows(DELIVERIES)} == {("retrying", 0)}
    assert all(one["seconds"] > 3 for one in rows(WAIT))
    assert rows(ATTEMPTS) == []


def test_never_is_the_end_of_it(send: Send, mail: Any, rows: Rows, run: Run) -> None:
    ids = mail("ada")
    run("DELETE FROM deliveries WHERE channel = 'web'")
    send(Provider(Never("refused", "554 no")), ids)
    assert rows(DELIVERIES) == [row("failed", "refused")]
    assert rows(ATTEMPTS) == [tried(1, "failed", "refused", "554 no")]
    assert rows("SELECT * FROM suppressed_addresses") == []


def test_an_address_where_nobody_is_gets_no_mail_again(send: Send, mail: Any, rows: Rows, run: Run) -> None:
    first = mail("ada")
    send(Provider(Gone("mailbox_unknown", "550 5.1.1")), first)
    assert rows("SELECT address, reason FROM suppressed_addresses") == [
        {"address": "ada@example.com", "reason": "mailbox_unknown"}
    ]
    run("DELETE FROM deliveries")
    provider = Provider()
    send(provider, mail("ada"))
    assert provider.asked == []
    found = rows("SELECT state, reason FROM deliveries WHERE channel = 'email'")
    assert found == [{"state": "suppressed", "reason": "address_suppressed: mailbox_unknown"}]


@pytest.mark.parametrize("refreshed", [False, True])
def test_a_device_that_is_gone_is_removed_unless_it_came_back_meanwhile(
    refreshed: bool, send: Send, chain: Chain, mail: Any, rows: Rows, run: Run
) -> None:
    mail("ada")
    run(
        "INSERT INTO devices (user_id, kind, address)"
        " VALUES ('ada', 'fcm_token', 'token'), ('ada', 'web_push', 'e')"
    )
    routed = chain.route({"recipients": ["ada"], "id": "pushed"})
    provider = Provider(Gone("unregistered"), serves="push")
    if refreshed:
        provider.meanwhile = lambda: run("UPDATE devices SET refreshed_at = now() + interval '1 s'")
    send(provider, routed["fcm"])
    assert [(one.kind, one.address) for one in provider.asked] == [("fcm_token", "token")]
    kept = [one["address"] for one in rows("SELECT address FROM devices ORDER BY 1")]
    assert kept == (["e", "token"] if refreshed else ["e"])
    assert len(routed["webpush"]) == 1


@pytest.mark.parametrize(
    ("change", "state", "reason"),
    [
        (OPT_OUT, "suppressed", "opted_out"),
        ("UPDATE notification_preferences SET enabled = false", "suppressed", "muted"),
        ("UPDATE notification_preferences SET channels = '{\"email\": false}'", "suppressed", "preference"),
        ("UPDATE notifications SET read_at = now()", "suppressed", "read"),
        ("UPDATE notifications SET expires_at = now()", "expired", "expired"),
        ("UPDATE users SET email = NULL", "suppressed", "no_address"),
        (BOUNCED, "suppressed", "address_suppressed: bounce"),
    ],
)
def test_what_changed_while_it_waited_counts(
    change: str, state: str, reason: str, send: Send, mail: Any, rows: Rows, run: Run
) -> None:
    ids = mail("ada")
    run(change)
    provider = Provider()
    send(provider, ids)
    assert provider.asked == []
    found = rows("SELECT state, reason, attempt FROM deliveries WHERE channel = 'email'")
    assert found == [{"state": state, "reason": reason, "attempt": 0}]
    assert rows(ATTEMPTS) == []


def test_a_critical_one_passes_what_was_switched_off(send: Send, mail: Any, rows: Rows, run: Run) -> None:
    ids = mail("ada")
    run("UPDATE notifications SET importance = 'critical'")
    run("UPDATE notification_preferences SET enabled = false")
    run("INSERT INTO opt_outs (user_id, channel, category) VALUES ('ada', 'email', 'social')")
    provider = Provider(Sent())
    send(provider, ids)
    assert len(provider.asked) == 1


def test_workers_at_once_send_each_once(send: Send, mail: Any, rows: Rows) -> None:
    ids = mail(*(f"u-{number}" for number in range(40)))
    providers = [Provider(*[Sent()] * 40) for _ in range(8)]
    at_once(8, lambda number: send(providers[number], ids))
    asked = [parcel.user for provider in providers for parcel in provider.asked]
    assert sorted(asked) == sorted(f"u-{number}" for number in range(40))
    assert rows("SELECT DISTINCT state FROM deliveries WHERE channel = 'email'") == [{"state": "sent"}]


def test_a_batch_is_no_larger_than_the_channel_takes(send: Send, mail: Any) -> None:
    ids = mail(*(f"u-{number}" for number in range(7)))
    sizes: list[int] = []

    class Small(Provider):
        BATCH = 3

        def send(self, parcels: Sequence[Parcel], _: Resources) -> list[Outcome]:
            sizes.append(len(parcels))
            return [Sent() for _ in parcels]

    send(Small(), ids)
    assert sizes == [3, 3, 1]


def test_a_worker_that_died_while_it_sent_leaves_a_possible_duplicate(
    send: Send, mail: Any, rows: Rows, run: Run
) -> None:
    from workers.due import end_leases

    ids = mail("ada")
    run("DELETE FROM deliveries WHERE channel = 'web'")

    class Died(BaseException):
        pass

    def die() -> None:
        raise Died

    dying = Provider(Sent())
    dying.meanwhile = die
    with pytest.raises(Died):
        send(dying, ids)
    assert [one["state"] for one in rows(DELIVERIES)] == ["sending"]
    assert end_leases() == 0
    again = Provider(Sent("second"))
    send(again, ids)
    assert again.asked == []
    run("UPDATE deliveries SET next_attempt_at = now()")
    assert [end_leases(), end_leases()] == [1, 0]
    send(again, ids)
    assert rows(DELIVERIES) == [row("sent", attempt=2, receipt="second")]
    assert rows(ATTEMPTS) == [tried(1, "unknown", "no_word"), tried(2, "sent")]
    assert {"event": "possible_duplicate", "count": 1} in rows(COUNTS)


def test_a_worker_that_was_too_late_changes_nothing_but_its_own_try(
    send: Send, mail: Any, rows: Rows, run: Run
) -> None:
    from workers.due import end_leases

    ids = mail("ada")
    run("DELETE FROM deliveries WHERE channel = 'web'")
    other = Provider(Never("refused"))
    slow = Provider(Sent("late"))

    def overtaken() -> None:
        run("UPDATE deliveries SET next_attempt_at = now()")
        assert end_leases() == 1
        send(other, ids)

    slow.meanwhile = overtaken
    send(slow, ids)
    assert rows(DELIVERIES) == [row("failed", "refused", attempt=2)]
    assert rows(ATTEMPTS) == [tried(1, "sent"), tried(2, "failed", "refused")]


def test_what_kills_its_worker_every_time_is_dead_in_the_end(
    mail: Any, rows: Rows, run: Run, process: Process
) -> None:
    from workers.due import end_leases

    mail("ada")
    run("DELETE FROM deliveries WHERE channel = 'web'")
    run("UPDATE deliveries SET state = 'sending', attempt = 99, next_attempt_at = now()")
    assert end_leases() == 1
    assert rows(DELIVERIES) == [row("dead", "no_word", 99)]


def test_a_replayed_one_begins_its_schedule_anew(send: Send, mail: Any, rows: Rows, run: Run) -> None:
    ids = mail("ada")
    run("DELETE FROM deliveries WHERE channel = 'web'")
    run("UPDATE deliveries SET state = 'retrying', attempt = 3, replayed_after = 3")
    send(Provider(Later("deferred")), ids)
    assert rows(DELIVERIES) == [row("retrying", "deferred", 4)]
    assert 7 < rows(WAIT)[0]["seconds"] < 12


def test_an_old_type_is_no_news(send: Send, mail: Any, rows: Rows, use: Resources, run: Run) -> None:
    import msgspec

    ids = mail("ada")
    lasting = msgspec.structs.replace(use.catalog.types["comment"], time_to_live=timedelta(hours=1))
    from workers.claims import claim

    use.catalog.types["comment"], kept = lasting, use.catalog.types["comment"]
    try:
        run("UPDATE notifications SET created_at = now() - interval '61 min'")
        with use.pool.connection() as connection:
            (claimed,) = claim(connection, Provider(), ids, use.catalog)
        assert claimed.decided
        assert claimed.decided.state == "expired"
        run("UPDATE notifications SET created_at = now() - interval '59 min'")
        run("UPDATE deliveries SET state = 'pending', next_attempt_at = now()")
        run("DELETE FROM attempts")
        with use.pool.connection() as connection:
            (claimed,) = claim(connection, Provider(), ids, use.catalog)
        assert claimed.parcel
        assert claimed.parcel.expires_at
        assert claimed.parcel.expires_at < datetime.now(UTC) + timedelta(minutes=2)
    finally:
        use.catalog.types["comment"] = kept


def test_a_push_without_a_device_is_closed_with_the_reason(chain: Chain, mail: Any, rows: Rows) -> None:
    mail("ada", id="nowhere")
    (found,) = rows("SELECT closed FROM notifications WHERE event_id = 'nowhere'")
    assert found["closed"]["push"] == "no_device"
