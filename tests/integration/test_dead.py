"""Dead letters: everything dead is listed, shown, and decided on once, by command and by API."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from schema.errors import TocsinError
from schema.identity import milliseconds_of
from tests.integration.chain import Process, at_once
from tests.integration.letters import Letters
from workers import dead, redrive
from workers.dead import Which

pytest_plugins = ["tests.integration.fleet"]

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = datetime(2026, 1, 31, 9, tzinfo=UTC)


@pytest.fixture
def db(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, options="-c timezone=UTC") as connection:
        yield connection


@pytest.fixture
def made(database_url: str) -> Letters:
    return Letters(database_url)


def listed(db: psycopg.Connection, **which: Any) -> list[str]:
    return [letter.id for letter in dead.letters(db, Which(**which))[0]]


def test_both_kinds_are_one_list_newest_first(db, made):
    old, message = made.delivery(ago=3 * HOUR), made.message(ago=2 * HOUR)
    young = made.delivery("unreachable", "push", "like", ago=HOUR, tries=3)
    for state in ("pending", "sending", "retrying", "sent", "failed", "suppressed", "expired"):
        made.delivery(state=state)
    found, following = dead.letters(db, Which())
    assert [letter.id for letter in found] == [young, message, old]
    assert following is None
    first, second, _ = found
    assert (first.channel, first.type, first.reason, first.tries) == ("push", "like", "unreachable", 3)
    assert first.event_id == f"e-{made.row(young)['user_id']}"
    assert str(first.notification_id) == made.row(young)["notification_id"]
    assert (second.queue, second.actor, second.reason, second.tries) == ("pipeline", "pipeline", "KeyError", None)
    assert "secret" not in repr(found)
    assert "mailbox busy" not in repr(found)


def test_filters(db, made):
    email, push = made.delivery(ago=DAY), made.delivery("unreachable", "push", "like", ago=HOUR)
    chain = made.message(ago=DAY)
    hop = made.message("unreadable: not a message", "deliver-push", "", "nonsense", ago=HOUR)
    now = datetime.now(UTC)
    assert listed(db) == [hop, push, chain, email] or listed(db) == [push, hop, email, chain]
    assert sorted(listed(db, channel="push")) == sorted([push, hop])
    assert listed(db, channel="email") == [email]
    assert listed(db, type="like") == [push]
    assert listed(db, reason="mailbox_busy") == [email]
    assert listed(db, reason="KeyError") == [chain]
    assert listed(db, reason="unreadable") == [hop]
    assert sorted(listed(db, since=now - 2 * HOUR)) == sorted([push, hop])
    assert sorted(listed(db, until=now - 2 * HOUR)) == sorted([email, chain])
    assert listed(db, channel="push", type="comment") == []
    assert listed(db, ids=(chain, email), reason="KeyError") == [chain]


def test_pages_hold_each_letter_once_also_of_one_moment(db, made):
    ids = {made.delivery() for _ in range(3)} | {made.message() for _ in range(12)}
    made.run("UPDATE deliveries SET settled_at = '2026-01-31T09:00:00.000001Z'")
    made.run("UPDATE dead_letters SET created_at = '2026-01-31T09:00:00.000001Z'")
    for limit in (1, 2, 7, 15):
        seen, before = [], None
        for _ in range(20):
            found, before = dead.letters(db, Which(), limit, before)
            seen += [letter.id for letter in found]
            if before is None:
                break
        assert len(seen) == len(ids), limit
        assert set(seen) == ids


@pytest.mark.parametrize("before", ["", "x", "1.d-1", "-1.m-1", "1.m-1.m-2", "9" * 30 + ".m-1", "١.m-1"])
def test_a_place_that_is_none_is_refused(db, before):
    if before:
        with pytest.raises(TocsinError):
            dead.letters(db, Which(), 10, before)
    else:
        assert dead.letters(db, Which(), 10, before) == ([], None)


@pytest.mark.parametrize(
    "id_", ["", "d", "d-", "m-", "m-x", "m--1", "m-1.5", "x-1", "d-123", "m-9223372036854775808"]
)
def test_an_id_that_is_none_is_refused(db, id_):
    for ask in (lambda: dead.letter(db, id_), lambda: redrive.replay(db, Which(ids=(id_,)))):
        with pytest.raises(TocsinError, match="d-UUID and m-NUMBER"):
            ask()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", NOW - 2 * HOUR),
        ("3d", NOW - 3 * DAY),
        ("90 min", NOW - 1.5 * HOUR),
        ("1w", NOW - 7 * DAY),
        ("2026-01-31T10:00:00+01:00", NOW),
        ("2026-01-31T09:00", NOW),
        ("2026-01-31", NOW - 9 * HOUR),
        ("yesterday", None),
        ("-2h", None),
        ("2y", None),
        ("", None),
    ],
)
def test_times_as_people_write_them(text, expected):
    if expected is None:
        with pytest.raises(TocsinError, match="2h"):
            dead.instant(text)
    else:
        assert dead.instant(text, NOW) == expected


def test_one_delivery_tells_of_every_try(db, made):
    id_ = made.delivery(tries=3)
    found = dead.letter(db, id_)
    assert isinstance(found, dead.DeadDelivery)
    assert (found.id, found.state, found.channel, found.tries) == (id_, "dead", "email", 3)
    assert [(each.number, each.outcome, each.said) for each in found.attempts] == [
        (n, "later", "450 mailbox busy") for n in (1, 2, 3)
    ]
    assert dead.letter(db, id_[:-12] + "000000000000") is None


def test_one_message_shows_its_trace(db, made):
    found = dead.letter(db, made.message())
    assert isinstance(found, dead.DeadMessage)
    assert (found.state, found.cause, found.message) == (
        "dead",
        "KeyError: 'a secret'",
        made.row(found.id)["message"],
    )
    assert found.trace.endswith(found.cause)
    assert dead.letter(db, "m-99999999") is None


def test_the_list_reads_the_dead_and_not_the_many(db, made):
    first = UUID(int=milliseconds_of(datetime.now(UTC)) << 80)
    made.run(
        "INSERT INTO deliveries (id, notification_id, user_id, channel, state, settled_at)"
        " SELECT overlay(%s::text PLACING lpad(to_hex(n), 12, '0') FROM 25)::uuid, gen_random_uuid(), 'ada',"
        " 'email', CASE WHEN n %% 1000 = 0 THEN 'dead' ELSE 'sent' END, now() FROM generate_series(1, 20000) n",
        str(first),
    )
    made.run("ANALYZE deliveries")
    month = f"deliveries_{datetime.now(UTC):%Y_%m}"
    ((index,),) = made.run(
        "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_inherits ON inhrelid = indexrelid"
        " WHERE inhparent = 'deliveries_dead'::regclass AND indrelid = %s::regclass",
        month,
    )
    replays = redrive._REPLAY, {"after": UUID(int=0), "round": 500, "done": 0, "rate": 50}
    for statement, more in ((dead._LIST, {"limit": 51}), (dead._COUNT, {}), replays):
        for which in (Which(), Which(channel="email", reason="x", since=NOW)):
            conditions, values = which.conditions()
            lines = db.execute("EXPLAIN " + statement.format(**conditions), values | more).fetchall()
            plan = "\n".join(line for (line,) in lines)
            assert index in plan, plan
            assert f"Seq Scan on {month}" not in plan, plan
    assert len(listed(db)) == 20


def test_a_replayed_delivery_is_due_anew_and_in_turn(db, made):
    ids = sorted(made.delivery() for _ in range(10))
    assert redrive.replay(db, Which(), rate=2) == redrive.Decided(10, 0, [])
    now = db.execute("SELECT now()").fetchone()
    assert now
    due = []
    for id_ in ids:
        row = made.row(id_)
        due.append((datetime.fromisoformat(row["next_attempt_at"]) - now[0]).total_seconds())
        assert (row["state"], row["reason"], row["settled_at"]) == ("retrying", None, None)
        assert (row["attempt"], row["replayed_after"]) == (7, 7)
    assert due == pytest.approx([due[0] + n / 2 for n in range(10)], abs=0.001)
    assert -5 < due[0] <= 0
    assert listed(db) == []
    assert redrive.replay(db, Which()) == redrive.Decided(0, 0, [])


def test_rounds_are_one_after_the_other(db, made, monkeypatch):
    monkeypatch.setattr(redrive, "ROUND", 3)
    for _ in range(7):
        made.delivery()
        made.message()
    kept = made.delivery(channel="push")
    assert redrive.discard(db, Which(channel="email")) == redrive.Decided(7, 0, [])
    assert redrive.discard(db, Which(reason="KeyError")) == redrive.Decided(0, 7, [])
    made.run("UPDATE deliveries SET state = 'dead' WHERE state = 'failed'")
    assert redrive.replay(db, Which(), rate=1) == redrive.Decided(8, 0, [])
    ((seconds,),) = made.run(
        "SELECT extract(epoch FROM max(next_attempt_at) - min(next_attempt_at)) FROM deliveries"
    )
    assert 7 <= seconds < 9
    assert made.row(kept)["state"] == "retrying"


def test_filters_hold_for_replay_and_discard(db, made):
    email, push, message = made.delivery(), made.delivery(channel="push"), made.message()
    assert redrive.replay(db, Which(channel="push")).deliveries == 1
    assert redrive.discard(db, Which(type="comment")).deliveries == 1
    states = made.row(push)["state"], made.row(email)["state"], made.row(email)["reason"]
    assert states == ("retrying", "failed", "discarded")
    assert listed(db) == [message]
    assert redrive.discard(db, Which(ids=(message,))) == redrive.Decided(0, 1, [])
    assert made.row(message)["discarded_at"]
    assert listed(db) == []


def test_several_at_once_replay_each_exactly_once(made, database_url, process: Process, monkeypatch):
    monkeypatch.setattr(redrive, "ROUND", 7)
    deliveries, messages = [made.delivery() for _ in range(60)], [made.message() for _ in range(40)]

    def replay(_: int) -> redrive.Decided:
        with psycopg.connect(database_url) as connection:
            return redrive.replay(connection, Which())

    answers = at_once(4, replay)
    with psycopg.connect(database_url) as connection:
        answers.append(redrive.replay(connection, Which()))  # what one had locked while another passed by
    assert sum(answer.deliveries for answer in answers) == len(deliveries)
    assert sum(answer.messages for answer in answers) == len(messages)
    assert len(process.queued("pipeline")) == len(messages)


def test_replay_and_discard_at_once_leave_each_to_one(made, database_url, process: Process):
    ids = tuple(made.delivery() for _ in range(40)) + tuple(made.message() for _ in range(40))

    def decide(number: int) -> redrive.Decided:
        with psycopg.connect(database_url) as connection:
            return (redrive.replay if number % 2 else redrive.discard)(connection, Which(ids=ids))

    answers = at_once(4, decide)
    assert sum(answer.deliveries for answer in answers) == 40
    assert sum(answer.messages for answer in answers) == 40
    for answer in answers:
        assert answer.deliveries + answer.messages + len(answer.left) == len(ids)
    replayed = sum(answers[n].messages for n in (1, 3))
    assert len(process.queued("pipeline")) == replayed


def test_a_message_goes_back_as_it_was(db, made, process: Process):
    call = '{"args":[{"notifications":[],"v":1}],"kwargs":{}}'
    id_ = made.message(queue="pipeline-bulk", actor="pipeline-bulk", message=call)
    assert redrive.replay(db, Which(ids=(id_,))) == redrive.Decided(0, 1, [])
    assert process.queued("pipeline-bulk") == json.loads(call)["args"]
    row = made.row(id_)
    assert (row["replayed_at"] is None, row["discarded_at"]) == (False, None)
    assert redrive.replay(db, Which(ids=(id_,))).left == [redrive.Left(id_, "it is replayed, not dead")]
    assert len(process.queued("pipeline-bulk")) == 1


def test_what_cannot_run_stays_and_says_why(db, made, process: Process):
    unreadable = made.message("unreadable: not a message of this fleet", actor="", message="\\x00nonsense")
    unknown = made.message(queue="deliver-pigeon", actor="deliver_pigeon")
    good, sent = made.message(), made.delivery(state="sent")
    answer = redrive.replay(db, Which(ids=(unreadable, unknown, good, sent, "m-99999999")))
    assert (answer.deliveries, answer.messages) == (0, 1)
    why = {left.id: left.why for left in answer.left}
    assert why.keys() == {unreadable, unknown, sent, "m-99999999"}
    assert "could not be read" in why[unreadable]
    assert "'deliver_pigeon'" in why[unknown]
    assert why[sent] == "it is sent, not dead"
    assert why["m-99999999"] == "no such dead letter"
    assert sorted(listed(db)) == sorted([unreadable, unknown])
    assert {left.id for left in redrive.replay(db, Which()).left} == {unreadable, unknown}


def test_without_redis_messages_stay_dead_and_deliveries_do_not(db, made, process: Process, monkeypatch):
    import dramatiq

    message, delivery = made.message(), made.delivery()
    pool = dramatiq.get_broker().client.connection_pool  # type: ignore[attr-defined]
    port = pool.connection_kwargs["port"]
    pool.connection_kwargs["port"] = 1
    pool.disconnect()
    try:
        with pytest.raises(redrive.Interrupted, match="1 deliveries and 0 messages"):
            redrive.replay(db, Which())
    finally:
        pool.connection_kwargs["port"] = port
        pool.reset()
    assert listed(db) == [message]
    assert made.row(delivery)["state"] == "retrying"


def test_prune_takes_what_was_decided_long_ago(db, made):
    kept = [made.message(ago=100 * DAY), made.message(ago=100 * DAY), made.message(ago=100 * DAY)]
    gone = [made.message(ago=100 * DAY), made.message(ago=100 * DAY)]
    for id_, column, days in ((kept[1], "replayed", 5), (kept[2], "discarded", 5), (gone[0], "replayed", 95)):
        made.run(f"UPDATE dead_letters SET {column}_at = now() - %s WHERE id = %s", days * DAY, int(id_[2:]))
    made.run("UPDATE dead_letters SET discarded_at = now() - %s WHERE id = %s", 95 * DAY, int(gone[1][2:]))
    assert redrive.prune(db, datetime.now(UTC) - 90 * DAY) == 2
    assert {f"m-{id_}" for (id_,) in made.run("SELECT id FROM dead_letters")} == set(kept)
    assert redrive.prune(db, datetime.now(UTC) - 90 * DAY) == 0


def test_the_clock_sends_what_was_replayed_when_it_is_due(made, db, process: Process):
    from workers.due import send_due_deliveries

    now_due, later = sorted([made.delivery(channel="web"), made.delivery(channel="web")])
    redrive.replay(db, Which(), rate=0.01)
    send_due_deliveries()
    (sent,) = process.queued("deliver-web")
    assert sent["deliveries"] == [now_due[2:]]
    assert made.row(later)["state"] == "retrying"


# The command and the API


@pytest.fixture
def name() -> str:
    """A reason nobody else's letters have; also the name of an error."""
    return f"Error{uuid4().hex[:12]}"


@pytest.fixture
def shared(api) -> Letters:
    return Letters(api.environment["DATABASE_URL"])


@pytest.fixture
def tocsin(api, start) -> Callable[..., tuple[int, str]]:
    """tocsin("dead", "list"): its exit code, and everything it wrote."""

    def run(*words: str) -> tuple[int, str]:
        process = start(api.environment | {"NO_COLOR": "1", "COLUMNS": "200"}, "tocsin", *words)
        code = process.popen.wait(60)
        assert "Traceback (most recent" not in process.text(), process.text()
        return code, process.text()

    return run


def test_the_command_lists_shows_and_replays(tocsin, shared, name):
    one, two = shared.delivery(name, said="450 [red]busy\x1b[31m"), shared.delivery(name, ago=HOUR)
    code, text = tocsin("dead", "list", "--reason", name)
    assert code == 0
    assert [line.split()[0] for line in text.splitlines()] == ["id", one, two]
    assert "busy" not in text
    code, text = tocsin("dead", "list", "--reason", name, "--limit", "1")
    before = text.split()[-1]
    assert tocsin("dead", "list", "--reason", name, "--before", before)[1].splitlines()[1].startswith(two)
    code, text = tocsin("dead", "list", "--reason", name, "--since", "30min", "--json")
    assert [letter["id"] for letter in json.loads(text)["dead"]] == [one]
    code, text = tocsin("dead", "show", one)
    assert code == 0
    assert text.count("450 [red]busy [31m") == 7
    assert tocsin("dead", "replay", one) == (0, "replayed 1 delivery, 0 messages\n")
    assert tocsin("dead", "replay", one, two) == (
        1,
        f"replayed 1 delivery, 0 messages\ntocsin: {one}: it is retrying, not dead\n",
    )
    assert tocsin("dead", "list", "--reason", name) == (0, "nothing dead fits\n")


def test_the_command_shows_a_message_and_discards_it(tocsin, shared, name):
    id_ = shared.message(f"{name}: [bold]wrong", message='{"args":["[red]x"],"kwargs":{}}')
    code, text = tocsin("dead", "show", id_)
    assert code == 0
    for words in (f"{name}: [bold]wrong", '{"args":["[red]x"],"kwargs":{}}', "  somewhere"):
        assert words in text
    assert json.loads(tocsin("dead", "show", id_, "--json")[1])["state"] == "dead"
    code, text = tocsin("dead", "discard", "--all", "--reason", name, "--yes", "--json")
    assert (code, json.loads(text)) == (0, {"deliveries": 0, "messages": 1, "left": []})
    assert shared.row(id_)["discarded_at"]
    assert tocsin("dead", "prune", "--before", "90d") == (0, "pruned 0\n")


def test_all_is_never_by_accident(tocsin, shared, name):
    id_ = shared.delivery(name)
    code, text = tocsin("dead", "replay")
    assert (code, "--all" in text) == (2, True)
    code, text = tocsin("dead", "replay", id_, "--all")
    assert (code, "--all" in text) == (2, True)
    code, text = tocsin("dead", "discard", id_, "--channel", "email")
    assert (code, "filters" in text) == (2, True)
    code, text = tocsin("dead", "discard", "--all", "--reason", name)
    assert (code, len(text.splitlines())) == (1, 1)
    assert "1 delivery, 0 messages" in text
    assert "--yes" in text
    assert shared.row(id_)["state"] == "dead"


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["dead", "show", "x"], 1, "d-UUID and m-NUMBER"),
        (["dead", "show", "m-99999999"], 1, "tocsin dead list"),
        (["dead", "replay", "x"], 2, "d-UUID and m-NUMBER"),
        (["dead", "list", "--since", "soon"], 2, "'soon'"),
        (["dead", "list", "--before", "soon"], 1, "tocsin: "),
        (["dead", "list", "--limit", "0"], 2, "--limit"),
        (["dead", "replay", "--all", "--rate", "0"], 2, "--rate"),
        (["dead", "prune"], 2, "--before"),
        (["dead"], 2, "Usage"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_said(tocsin, words, code, expected):
    found, text = tocsin(*words)
    assert found == code, text
    assert expected in text
    if code == 1:
        assert len(text.splitlines()) == 1


def test_the_api_lists_shows_and_decides(api, shared, name):
    ids = [shared.delivery(name, ago=n * HOUR) for n in range(3)]
    first = api.client.get("/v1/dead", params={"reason": name, "limit": 2}).json()
    assert [letter["id"] for letter in first["dead"]] == ids[:2]
    rest = api.client.get("/v1/dead", params={"reason": name, "limit": 2, "before": first["next"]}).json()
    assert ([letter["id"] for letter in rest["dead"]], rest["next"]) == (ids[2:], None)
    assert (
        api.client.get("/v1/dead", params={"reason": name, "since": "30min"}).json()["dead"] == first["dead"][:1]
    )
    shown = api.client.get(f"/v1/dead/{ids[0]}").json()
    assert (shown["state"], len(shown["attempts"]), shown["attempts"][0]["said"]) == (
        "dead",
        7,
        "450 mailbox busy",
    )
    message = shared.message(f"{name}: wrong")
    assert api.client.get(f"/v1/dead/{message}").json()["cause"] == f"{name}: wrong"
    answer = api.client.post("/v1/dead/replay", json={"ids": [ids[0], "m-99999999"], "rate": 5})
    left = [{"id": "m-99999999", "why": "no such dead letter"}]
    assert (answer.status_code, answer.json()) == (200, {"deliveries": 1, "messages": 0, "left": left})
    answer = api.client.post("/v1/dead/discard", json={"all": True, "reason": name})
    assert answer.json() == {"deliveries": 2, "messages": 1, "left": []}
    assert [shared.row(id_)["state"] for id_ in ids] == ["retrying", "failed", "failed"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("POST", "/replay", {}, 422, "ids"),
        ("POST", "/replay", {"ids": []}, 422, "ids"),
        ("POST", "/replay", {"all": False}, 422, "ids"),
        ("POST", "/replay", {"ids": ["m-1"], "all": True}, 422, "ids"),
        ("POST", "/replay", {"ids": ["m-1"], "channel": "email"}, 422, "ids"),
        ("POST", "/replay", {"ids": ["x"]}, 422, "ids"),
        ("POST", "/replay", {"all": True, "rate": 0}, 422, "rate"),
        ("POST", "/replay", {"all": True, "since": "soon"}, 422, "since"),
        ("POST", "/replay", {"all": True, "chanel": "email"}, 422, "chanel"),
        ("POST", "/discard", {"all": True, "rate": 5}, 422, "rate"),
        ("POST", "/discard", [], 422, ""),
        ("GET", "?before=soon", None, 422, "before"),
        ("GET", "?since=soon", None, 422, "since"),
        ("GET", "?limit=0", None, 422, "limit"),
        ("GET", "?reason=%00", None, 422, "reason"),
        ("GET", "/x", None, 422, "id"),
        ("GET", "/m-99999999", None, 404, None),
    ],
)
def test_the_api_refuses_with_a_problem(api, shared, name, method, path, body, status, field):
    id_ = shared.delivery(name)
    answer = api.client.request(method, f"/v1/dead{path}", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert field is None or field in [error["field"] for error in answer.json()["errors"]]
    assert shared.row(id_)["state"] == "dead"


def test_without_a_key_nothing_is_shown_or_decided(api):
    for method, path in (("GET", ""), ("GET", "/m-1"), ("POST", "/replay"), ("POST", "/discard")):
        answer = api.client.request(method, f"/v1/dead{path}", json={"all": True}, headers={"authorization": "x"})
        assert answer.status_code == 401
