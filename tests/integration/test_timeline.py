"""Timelines: what became of an event, in rows that the chain wrote, and in words."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from pipelines import accept
from schema.errors import FieldError
from schema.identity import delivery_id, milliseconds_of, notification_id
from tests.integration.chain import CONTENT, Chain
from tests.integration.letters import Letters
from workers import timeline

pytest_plugins = ["tests.integration.fleet"]

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def db(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, options="-c timezone=UTC") as connection:
        yield connection


@pytest.fixture
def made(database_url: str) -> Letters:
    return Letters(database_url)


def email(made: Letters, notification: UUID, user: str, state: str, **columns: Any) -> UUID:
    """A delivery over email, as fan_out writes one."""
    id_ = delivery_id(notification, "email")
    names = ["id", "notification_id", "user_id", "channel", "state", *columns]
    values = [id_, notification, user, "email", state, *columns.values()]
    places = ", ".join(["%s"] * len(values))
    made.run(f"INSERT INTO deliveries ({', '.join(names)}) VALUES ({places})", *values)
    return id_


def attempt(made: Letters, delivery: UUID, number: int, outcome: str, **columns: Any) -> None:
    names = ["delivery_id", "number", "outcome", *columns]
    places = ", ".join(["%s"] * len(names))
    values = delivery, number, outcome, *columns.values()
    made.run(f"INSERT INTO attempts ({', '.join(names)}) VALUES ({places})", *values)


def test_every_recipient_every_channel_and_every_try(chain: Chain, db, made):
    chain.route({"id": "c-1", "recipients": ["bob", "ada"], "source": "shop"})
    found = timeline.of_event(db, "c-1")
    assert found
    bob = found.notifications[0].id
    retried = email(made, bob, "bob", "retrying", reason="mailbox_busy", attempt=2)
    attempt(made, retried, 1, "unknown", reason="no_answer", started_at=LONG_AGO, ended_at=LONG_AGO)
    attempt(made, retried, 2, "later", reason="mailbox_busy", said="450 busy")
    ada = email(made, found.notifications[1].id, "ada", "sent", attempt=1, receipt="r-1", settled_at=LONG_AGO)
    attempt(made, ada, 1, "sent")

    found = timeline.of_event(db, "c-1")
    assert found
    assert (found.id, found.type, found.door, found.source) == ("c-1", "comment", "http", "shop")
    assert (found.state, found.says, found.next) == ("routed", "was routed to 2 recipients", None)
    assert (found.recipients, found.routed) == (2, 2)
    first, second = found.notifications
    assert (first.user, second.user) == ("bob", "ada")
    assert (first.state, first.seq, first.says) == ("routed", 1, "written, and shown in the inbox at place 1")
    assert first.closed == {"email": "type_default", "push": "type_default"}
    by_channel = {one.channel: one for one in first.deliveries}
    assert by_channel.keys() == {"web", "email"}
    assert (by_channel["web"].state, by_channel["web"].attempts) == ("pending", [])
    assert by_channel["web"].next_attempt_at
    one = by_channel["email"]
    assert (one.state, one.reason, one.tries, one.receipt) == ("retrying", "mailbox_busy", 2, None)
    assert one.next_attempt_at
    assert [(each.number, each.outcome, each.reason, each.said) for each in one.attempts] == [
        (1, "unknown", "no_answer", None),
        (2, "later", "mailbox_busy", "450 busy"),
    ]
    assert one.attempts[0].started_at == LONG_AGO
    sent = next(one for one in second.deliveries if one.channel == "email")
    assert (sent.state, sent.receipt, sent.settled_at, sent.next_attempt_at) == ("sent", "r-1", LONG_AGO, None)
    assert [each.outcome for each in sent.attempts] == ["sent"]
    assert timeline.of_notification(db, bob) == first


def test_neighbours_of_the_same_millisecond_stay_apart(chain: Chain, db):
    chain.route(*({"id": f"c-{n}", "recipients": ["ada", "bob"]} for n in range(5)))
    for n in range(5):
        found = timeline.of_event(db, f"c-{n}")
        assert found
        assert [one.event_id for one in found.notifications] == [f"c-{n}"] * 2
        assert [len(one.deliveries) for one in found.notifications] == [1, 1]
        assert {one.deliveries[0].id for one in found.notifications} == {
            delivery_id(one.id, "web") for one in found.notifications
        }


def test_no_content_is_shown(chain: Chain, db):
    secret = CONTENT | {"comment": "a secret"}
    chain.route({"id": "c-1", "data": secret})
    found = timeline.of_event(db, "c-1")
    assert "secret" not in repr(found)
    assert "New comment" not in repr(found)


def test_recipients_come_in_pages_or_alone(chain: Chain, db):
    people = [f"user-{n}" for n in range(120)]
    chain.route({"id": "c-1", "recipients": people})
    seen: list[str] = []
    skip: int | None = 0
    for _ in range(4):
        found = timeline.of_event(db, "c-1", None, skip or 0, 50)
        assert found
        seen += [one.user for one in found.notifications]
        skip = found.next
        if skip is None:
            break
    assert seen == people
    alone = timeline.of_event(db, "c-1", "user-77")
    assert alone
    assert [one.user for one in alone.notifications] == ["user-77"]
    assert alone.next is None
    nobody = timeline.of_event(db, "c-1", "eve")
    assert nobody
    assert nobody.notifications == []


def test_a_group_is_named(chain: Chain, db):
    for n in range(4):
        chain.route({"id": f"c-{n}", "group_key": "post-1"})
    found = timeline.of_event(db, "c-0")
    assert found
    (one,) = found.notifications
    assert one.group_id
    assert (one.group_count, one.says) == (4, "written, and shown in a group of 4")
    group = timeline.of_notification(db, one.group_id)
    assert group
    assert (group.event_id, group.group_id, group.group_count) == (None, one.group_id, 4)
    assert "row of a group" in group.says


def test_not_routed_yet(chain: Chain, db, made):
    (accepted,) = chain.accept({"id": "c-1", "recipients": ["ada", "bob"]})
    found = timeline.of_event(db, "c-1")
    assert found
    assert (found.state, found.says) == ("routing", "is on its way: 0 of 2 recipients written")
    at = milliseconds_of(accepted.accepted_at)
    assert [one.id for one in found.notifications] == [notification_id(at, "c-1", user) for user in ("ada", "bob")]
    assert {one.state for one in found.notifications} == {"not_routed"}
    assert timeline.of_notification(db, found.notifications[0].id) is None
    made.run("UPDATE events SET rescues = 2, rescued_at = now()")
    found = timeline.of_event(db, "c-1")
    assert found
    assert "sent it again 2 times" in found.says


def test_waiting_for_its_time(chain: Chain, db):
    at = datetime.now(UTC) + timedelta(hours=5)
    chain.accept({"id": "c-1", "send_at": at.isoformat()})
    found = timeline.of_event(db, "c-1")
    assert found
    assert (found.state, found.says) == ("waiting", f"waits for its send_at, {at:%Y-%m-%d %H:%M:%S} UTC")
    assert "waits for its send_at" in found.notifications[0].says


def test_at_the_sql_door(db, made):
    made.run("INSERT INTO events (id, type, recipients) VALUES ('c-1', 'comment', '[\"ada\"]')")
    found = timeline.of_event(db, "c-1")
    assert found
    assert (found.state, found.door, found.notifications) == ("at_the_sql_door", "sql", [])


def test_rejected(use, db):
    with use.pool.connection() as connection:
        accept.reject(connection, "stream", [("c-1", b"{}", [FieldError("type", "is required")])])
    found = timeline.of_event(db, "c-1")
    assert found
    assert (found.state, found.door) == ("rejected", "stream")
    assert found.says == "was refused at the stream door: type: is required"
    assert found.errors == [{"field": "type", "message": "is required"}]


def test_unknown(db):
    assert timeline.of_event(db, "c-1") is None
    assert timeline.of_notification(db, uuid4()) is None


def test_a_template_that_failed_and_a_row_that_is_gone(chain: Chain, db, made):
    chain.route({"id": "c-1", "recipients": ["ada", "bob"]})
    made.run("UPDATE notifications SET error = 'comment/web.txt.j2:3: boom', seq = NULL WHERE user_id = 'ada'")
    made.run("DELETE FROM notifications WHERE user_id = 'bob'")
    found = timeline.of_event(db, "c-1")
    assert found
    ada, bob = found.notifications
    assert (ada.state, ada.error) == ("unrenderable", "comment/web.txt.j2:3: boom")
    assert "comment/web.txt.j2:3" in ada.says
    assert (bob.state, bob.deliveries) == ("gone", [])
    assert "gone" in bob.says


def test_only_one_month_is_read(chain: Chain, db):
    """By the ids' range: other partitions are not even planned for."""
    chain.route({"id": "c-1"})
    found = timeline.of_event(db, "c-1")
    assert found
    ids = [one.id for one in found.notifications]
    begin = UUID(int=ids[0].int >> 80 << 80)
    end = UUID(int=(ids[0].int >> 80) + 1 << 80)
    this_month = f"{found.accepted_at:%Y_%m}"
    for query, values in ((timeline._DELIVERIES, (begin, end, ids)), (timeline._NOTIFICATIONS, (ids,))):
        plan = "\n".join(line for (line,) in db.execute(f"EXPLAIN {query}", values))
        scanned = [line for line in plan.splitlines() if "Scan" in line and " g" not in line.partition("(")[0]]
        assert scanned, plan
        assert all(this_month in line for line in scanned), plan


# The command and the API


@pytest.fixture
def tocsin(api, start) -> Callable[..., tuple[int, str]]:
    def run(*words: str) -> tuple[int, str]:
        process = start(api.environment | {"NO_COLOR": "1", "COLUMNS": "160"}, "tocsin", *words)
        return process.popen.wait(60), process.text()

    return run


@pytest.fixture
def routed(api, comment, name) -> str:
    """An event of ada and bob, accepted; ada's notification as fan_out writes it, her email tried twice."""
    api.post(comment([f"ada-{name}", f"bob-{name}"], id=name))
    made = Letters(api.environment["DATABASE_URL"])
    sql = "UPDATE events SET accepted_at = accepted_at - interval '1 h' WHERE id = %s RETURNING accepted_at"
    ((accepted,),) = made.run(sql, name)
    id_ = notification_id(milliseconds_of(accepted), name, f"ada-{name}")
    made.run(
        "INSERT INTO notifications (id, event_id, user_id, seq, type, category, importance, title, closed,"
        " created_at)"
        " VALUES (%s, %s, %s, 1, 'comment', 'social', 'normal', 'A secret', '{\"push\": \"preference\"}', %s)",
        *(id_, name, f"ada-{name}", accepted),
    )
    made.run("UPDATE events SET routed_count = 1 WHERE id = %s", name)
    due = datetime.now(UTC) + timedelta(hours=3)
    delivery = email(made, id_, f"ada-{name}", "retrying", attempt=2, reason="mailbox_busy", next_attempt_at=due)
    said, start = "450 [bold]busy\x1b[31m", accepted + timedelta(seconds=5)
    attempt(made, delivery, 1, "later", said=said, started_at=start, ended_at=start + timedelta(seconds=0.25))
    attempt(made, delivery, 2, "sending", started_at=start + timedelta(minutes=10), ended_at=None)
    return str(id_)


def test_the_command_tells_it_in_order(tocsin, routed, name):
    code, text = tocsin("trace", name)
    assert code == 0, text
    assert "Traceback" not in text
    lines = text.splitlines()
    assert lines[0] == f"event {name}: comment, through the http door"
    assert lines[1].endswith("it is on its way: 1 of 2 recipients written")
    assert f"ada-{name} {routed}" in lines
    table = [line.split() for line in lines[lines.index(f"ada-{name} {routed}") + 2 :]][:5]
    assert table[0] == ["after", "channel", "what", "said"]
    assert table[1][2:] == ["push", "closed:", "preference"]
    assert " ".join(table[2]) == "5.0 s email try 1: later, took 250 ms 450 [bold]busy [31m"
    assert " ".join(table[3]) == "10 min email try 2: sending"
    assert " ".join(table[4]) == "in 3 h email retrying: mailbox_busy; next try"
    assert any(line.startswith(f"bob-{name}") for line in lines)
    assert "secret" not in text
    code, text = tocsin("trace", name, "--user", f"bob-{name}", "--json")
    assert code == 0
    assert [one["user"] for one in json.loads(text)["notifications"]] == [f"bob-{name}"]
    code, text = tocsin("trace", name, "--limit", "1")
    assert text.splitlines()[-1] == "1 more: --skip 1"
    code, text = tocsin("trace", name, "--user", "eve")
    assert text.splitlines()[-1] == "eve is none of its recipients"


def test_the_command_says_that_it_knows_nothing(tocsin):
    code, text = tocsin("trace", "nobody's")
    assert (code, len(text.splitlines())) == (1, 1)
    assert text.startswith('tocsin: nobody knows an event "nobody\'s"')


def test_the_api_answers_alike(api, tocsin, routed, name):
    answer = api.client.get("/v1/notifications", params={"event": name})
    assert answer.status_code == 200, answer.text
    assert answer.json() == json.loads(tocsin("trace", name, "--json")[1])
    one = api.client.get(f"/v1/notifications/{routed}").json()
    assert one == answer.json()["notifications"][0]
    assert one["deliveries"][0]["attempts"][0]["said"].startswith("450")
    paged = api.client.get("/v1/notifications", params={"event": name, "limit": 1, "skip": 1}).json()
    assert ([one["user"] for one in paged["notifications"]], paged["next"]) == ([f"bob-{name}"], None)


def test_an_event_id_may_be_an_address(api, comment, name):
    id_ = f"https://shop.example/orders?x=1#{name}"
    api.post(comment("ada", id=id_))
    assert api.client.get("/v1/notifications", params={"event": id_}).json()["id"] == id_


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/x", 404),
        ("/00000000-0000-4000-8000-000000000007", 404),
        ("/%00", 404),
        ("?event=nobodys", 404),
        ("?event=", 422),
        ("?event=%00", 422),
        ("", 422),
        ("?event=x&limit=0", 422),
        ("?event=x&skip=-1", 422),
    ],
)
def test_the_api_refuses_with_a_problem(api, path, status):
    answer = api.client.get(f"/v1/notifications{path}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_without_a_key_nothing_is_told(api, routed):
    for path in (f"/{routed}", "?event=x"):
        assert api.client.get(f"/v1/notifications{path}", headers={"authorization": "x"}).status_code == 401
