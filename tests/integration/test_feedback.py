"""What providers tell of emails, in whatever order and however often; and what comes of it."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schema.identity import delivery_id, milliseconds_of, notification_id

pytest_plugins = ["tests.integration.fleet"]

PATH = "/v1/email/feedback"
SUPPRESSIONS = "/v1/email/suppressions"
ROWS = """
WITH user_ AS (
    INSERT INTO users (id, email) VALUES (%(user)s, %(address)s)
), notification AS (
    INSERT INTO notifications (id, user_id, type, category, importance)
    VALUES (%(notification)s, %(user)s, 'comment', 'social', 'normal')
), delivery AS (
    INSERT INTO deliveries (id, notification_id, user_id, channel, state, attempt)
    VALUES (%(delivery)s, %(notification)s, %(user)s, %(channel)s, %(state)s, 1)
)
INSERT INTO attempts (delivery_id, number, outcome, said) VALUES (%(delivery)s, 1, %(state)s, '250 OK')
"""


@pytest.fixture
def mail(api):
    """mail(state="sent"): an email to somebody new."""

    def made(state="sent", channel="email"):
        user = uuid4().hex[:12]
        notification = notification_id(milliseconds_of(datetime.now(UTC)), f"e-{user}", user)
        facts = {
            "user": user,
            "address": f"Ada.{user}@Example.org",
            "notification": notification,
            "delivery": delivery_id(notification, channel),
            "channel": channel,
            "state": state,
        }
        api.database.execute(ROWS, facts)
        return SimpleNamespace(**facts, message_id=f"<{facts['delivery']}@example.org>")

    return made


@pytest.fixture
def tell(api):
    """tell(feedback, …): the status of each."""

    def post(*feedback, one=False):
        answer = api.client.post(PATH, json=feedback[0] if one else list(feedback))
        assert answer.status_code == 200, answer.text
        assert [status["id"] for status in answer.json()["feedback"]] == [given["id"] for given in feedback]
        return [status["status"] for status in answer.json()["feedback"]]

    return post


@pytest.fixture
def became(api):
    """became(mail): the delivery's state and reason, why its address is suppressed, the user's opt-outs."""

    def look(mail):
        query = "SELECT state, reason FROM deliveries WHERE id = %s"
        (delivery,) = api.database.execute(query, (mail.delivery,)).fetchall()
        query = "SELECT reason FROM suppressed_addresses WHERE address = %s"
        suppressed = api.database.execute(query, (mail.address.lower(),)).fetchall()
        query = "SELECT channel, category FROM opt_outs WHERE user_id = %s"
        opt_outs = api.database.execute(query, (mail.user,)).fetchall()
        return delivery, [reason for (reason,) in suppressed], opt_outs

    return look


def bounce(mail, **fields):
    return {"id": uuid4().hex, "kind": "bounce", "message_id": mail.message_id, "permanent": True} | fields


def complaint(mail, **fields):
    return {"id": uuid4().hex, "kind": "complaint", "message_id": mail.message_id} | fields


UNTOUCHED = (("sent", None), [], [])
BOUNCED = (("failed", "bounced"), ["bounce"], [])
COMPLAINED = (("sent", None), ["complaint"], [("email", "social")])


def test_a_permanent_bounce_fails_the_delivery_and_suppresses_the_address(api, mail, tell, became):
    ada, bob = mail(), mail()
    at = datetime.now(UTC) - timedelta(minutes=5)
    assert tell(bounce(ada, said="550 5.1.1 unknown\0", at=at.isoformat()), one=True) == ["recorded"]
    assert became(ada) == BOUNCED
    assert became(bob) == UNTOUCHED
    assert api.one("SELECT settled_at FROM deliveries WHERE id = %s", ada.delivery) == at
    assert api.one("SELECT said FROM attempts WHERE delivery_id = %s", ada.delivery) == "550 5.1.1 unknown"
    assert api.one("SELECT said FROM attempts WHERE delivery_id = %s", bob.delivery) == "250 OK"


@pytest.mark.parametrize("at", ["2026-01-31T09:00:00+23:00", "9998-12-31T23:59:59-23:00", "1970-01-01T00:00:00Z"])
def test_any_instant_is_taken_and_none_lies_ahead(api, mail, tell, became, at):
    ada = mail()
    assert tell(bounce(ada, at=at)) == ["recorded"]
    assert became(ada) == BOUNCED
    settled = api.one("SELECT settled_at FROM deliveries WHERE id = %s", ada.delivery)
    assert settled == datetime.fromisoformat(at) if at < "2026-06" else settled <= datetime.now(UTC)


def test_a_complaint_suppresses_the_address_and_unsubscribes_from_the_category(api, mail, tell, became):
    ada = mail()
    assert tell(complaint(ada)) == ["recorded"]
    assert became(ada) == COMPLAINED
    assert tell(complaint(ada)) == ["recorded"]
    query = "SELECT changed_by, scope, name, setting, before, after FROM preference_changes WHERE user_id = %s"
    noted = api.database.execute(query, (ada.user,)).fetchall()
    assert noted == [("complaint", "opt_out", "social", "email", None, True)]


@pytest.mark.parametrize(
    "fields", [{"kind": "delivered"}, {"permanent": False}, {"kind": "delivered", "permanent": True}], ids=str
)
def test_anything_else_is_recorded_and_changes_nothing(api, mail, tell, became, fields):
    ada = mail()
    given = bounce(ada) | fields
    assert tell(given) == ["recorded"]
    assert became(ada) == UNTOUCHED
    recorded = api.database.execute("SELECT kind, delivery_id FROM email_feedback WHERE id = %s", (given["id"],))
    assert recorded.fetchall() == [(given["kind"], ada.delivery)]


@pytest.mark.parametrize("state", ["sent", "sending", "retrying"])
def test_a_delivery_that_bounced_is_failed_however_far_our_own_record_is(mail, tell, became, state):
    ada = mail(state)
    tell(bounce(ada))
    assert became(ada) == BOUNCED


@pytest.mark.parametrize("state", ["pending", "failed", "dead", "suppressed", "expired"])
def test_a_delivery_never_goes_backwards(mail, tell, became, state):
    ada = mail(state)
    tell(bounce(ada), complaint(ada), {"id": uuid4().hex, "kind": "delivered", "message_id": ada.message_id})
    assert became(ada) == ((state, None), ["complaint"], [("email", "social")])


def test_the_same_id_counts_once(api, mail, tell, became):
    ada, bob = mail(), mail()
    first = bounce(ada)
    assert tell(first, first) == ["recorded", "duplicate"]
    assert tell(first) == ["duplicate"]
    assert tell(bounce(bob, id=first["id"])) == ["duplicate"]
    assert became(bob) == UNTOUCHED
    assert api.client.delete(f"{SUPPRESSIONS}/{ada.address}").status_code == 204
    assert tell(first) == ["duplicate"]
    assert became(ada) == (BOUNCED[0], [], []), "a repeat does not undo what somebody decided since"


def test_what_is_of_no_email_of_ours_is_said_and_harms_nothing(api, mail, tell):
    push = mail(channel="push")
    messages = [f"<{uuid4()}@example.org>", push.message_id, "<hello@example.org>", "", "-" * 36, "x" * 998]
    given = [{"id": uuid4().hex, "kind": "complaint", "message_id": message} for message in messages]
    ada = mail()
    for _ in range(2):
        assert tell(*given, given[0]) == ["unknown"] * 7
    assert tell(given[0], bounce(ada), given[1]) == ["unknown", "recorded", "unknown"]
    ids = [one["id"] for one in given]
    assert api.one("SELECT count(*) FROM email_feedback WHERE id = ANY(%s)", ids) == 0
    assert api.one("SELECT count(*) FROM suppressed_addresses WHERE address = %s", push.address.lower()) == 0


@pytest.mark.parametrize("form", ["{}", "{}@x", " <{}@mail.example.org> "])
def test_a_message_id_with_and_without_brackets(mail, tell, became, form):
    ada = mail()
    written = form.format(str(ada.delivery).upper())
    assert tell(bounce(ada, message_id=written)) == (["unknown"] if "@" not in form else ["recorded"])
    assert became(ada) == (UNTOUCHED if "@" not in form else BOUNCED)


def test_an_address_alone_is_enough(mail, tell, became, name):
    ada, bob = mail(), mail()
    assert tell(bounce(ada, message_id=None, address=ada.address.upper())) == ["recorded"]
    assert became(ada) == (("sent", None), ["bounce"], [])
    assert tell({"id": name, "kind": "complaint", "address": bob.address}) == ["recorded"]
    assert became(bob) == (("sent", None), ["complaint"], [])


def test_the_address_of_then_is_suppressed_not_that_of_now(api, mail, tell, became, name):
    ada = mail()
    then = f"{name}@old.example.org"
    assert tell(bounce(ada, address=then)) == ["recorded"]
    assert became(ada) == (("failed", "bounced"), [], [])
    assert api.client.get(f"{SUPPRESSIONS}/{then}").json()["reason"] == "bounce"


def test_who_is_erased_meanwhile_gets_no_row(api, mail, tell, became):
    ada = mail()
    api.database.execute("DELETE FROM users WHERE id = %s", (ada.user,))
    assert tell(bounce(ada), complaint(ada)) == ["recorded", "recorded"]
    assert became(ada) == (("failed", "bounced"), [], [])


KINDS = st.sampled_from(
    [
        {"kind": "delivered"},
        {"kind": "bounce"},
        {"kind": "bounce", "permanent": True},
        {"kind": "bounce", "permanent": True, "said": "550"},
        {"kind": "complaint"},
    ]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(KINDS, min_size=1, max_size=6), data=st.data())
def test_any_order_and_any_repeats_end_alike(mail, tell, became, kinds, data):
    """Two emails are told of the same, one in order and one by one, one as it comes."""
    ada, bob = mail(), mail()
    for index, kind in enumerate(kinds):
        tell(kind | {"id": f"{ada.user}-{index}", "message_id": ada.message_id})
    told = [kind | {"id": f"{bob.user}-{index}", "message_id": bob.message_id} for index, kind in enumerate(kinds)]
    told = data.draw(st.permutations(told + data.draw(st.lists(st.sampled_from(told), max_size=6))))
    calls = data.draw(st.lists(st.integers(0, len(told)), max_size=3).map(sorted))
    statuses = []
    for begin, end in zip([0, *calls], [*calls, len(told)], strict=True):
        statuses += tell(*told[begin:end]) if end > begin else []
    assert statuses.count("recorded") == len(kinds)
    assert statuses.count("duplicate") == len(told) - len(kinds)
    assert became(ada) == became(bob)
    (state, _), suppressed, opt_outs = became(bob)
    assert (state == "failed") == any(kind.get("permanent") for kind in kinds)
    assert bool(opt_outs) == (suppressed == ["complaint"]) == any(kind["kind"] == "complaint" for kind in kinds)


HELD = {
    "of one provider": "INSERT INTO email_feedback (id, kind) VALUES (%(id)s, 'bounce')",
    "of several": "SELECT 1 FROM deliveries WHERE id = %(delivery)s FOR UPDATE",
}
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_calls_that_meet_count_once_and_never_wait_in_a_circle(api, mail, tell, became, eventually, held):
    """The same in four orders, or with ids of their own, all stopped by one row until each of them has begun."""
    mails = [mail() for _ in range(50)]
    told = [make(one) for one in mails for make in (bounce, complaint)]
    orders = [told, told[::-1], told[1::2] + told[::2], told[60:] + told[:60]]
    if "deliveries" in held:
        orders = [[one | {"id": uuid4().hex} for one in order] for order in orders]
    with ThreadPoolExecutor(4) as threads:
        with psycopg.connect(api.environment["DATABASE_URL"]) as holding:
            holding.execute(held, {"id": told[50]["id"], "delivery": mails[25].delivery})
            answers = [threads.submit(tell, *order) for order in orders]
            eventually(lambda: api.one(WAITING) == len(orders))
            holding.rollback()
        statuses = [status for answer in answers for status in answer.result()]
    assert statuses.count("recorded") == len({one["id"] for order in orders for one in order})
    assert set(statuses) <= {"recorded", "duplicate"}
    assert {str(became(one)) for one in mails} == {str((BOUNCED[0], *COMPLAINED[1:]))}


def test_a_whole_call(mail, tell, became):
    ada = mail()
    given = [complaint(ada) for _ in range(500)]
    assert set(tell(*given)) == {"recorded"}
    assert became(ada) == COMPLAINED


GOOD = {"id": "f-1", "kind": "bounce", "message_id": "<x@example.org>"}
BAD = {
    "no id": ({"kind": "bounce", "message_id": "x"}, "id", "required"),
    "empty id": (GOOD | {"id": ""}, "id", "length"),
    "long id": (GOOD | {"id": "x" * 256}, "id", "length"),
    "NUL in id": (GOOD | {"id": "a\0b"}, "id", "control characters"),
    "id a number": (GOOD | {"id": 5}, "id", "text"),
    "no kind": ({"id": "f-1", "message_id": "x"}, "kind", "required"),
    "another kind": (GOOD | {"kind": "opened"}, "kind", "delivered, bounce, complaint"),
    "of nothing": ({"id": "f-1", "kind": "bounce"}, "message_id", "address"),
    "long message id": (GOOD | {"message_id": "x" * 999}, "message_id", "length"),
    "no address": (GOOD | {"address": "ada"}, "address", "ada@example.org"),
    "two addresses": (GOOD | {"address": "a@b.co, c@d.co"}, "address", "one address"),
    "NUL in address": (GOOD | {"address": "a\0@b.co"}, "address", "one address"),
    "long address": (GOOD | {"address": "a" * 300 + "@b.co"}, "address", "length"),
    "permanent as text": (GOOD | {"permanent": "yes"}, "permanent", "true or false"),
    "no instant": (GOOD | {"at": "yesterday"}, "at", "instant"),
    "no zone": (GOOD | {"at": "2026-01-31T09:00:00"}, "at", "instant"),
    "year 1": (GOOD | {"at": "0001-01-01T00:00:00+23:00"}, "at", "1970"),
    "misspelt": (GOOD | {"messageId": "x"}, "messageId", "message_id"),
    "no object": ("f-1", "", "JSON object"),
}


@pytest.mark.parametrize("many", [False, True], ids=["one", "array"])
@pytest.mark.parametrize(("body", "field", "words"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named_and_nothing_is_stored(api, mail, became, body, field, words, many):
    ada = mail()
    answer = api.client.post(PATH, json=[bounce(ada), body] if many else body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    named = {error["field"]: error["message"] for error in answer.json()["errors"]}
    place = "feedback[1]" if many else ""
    assert words in named[".".join(part for part in (place, field) if part)]
    assert became(ada) == UNTOUCHED


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'"\xff"', b"[" * 2000, b"[]", json.dumps([GOOD] * 501).encode()],
    ids=lambda body: body[:9],
)
def test_a_body_that_is_no_feedback(api, body):
    answer = api.client.post(PATH, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("the body ")


def test_every_wrong_field_is_named_at_once(api):
    answer = api.client.post(PATH, json=[GOOD | {"id": "", "kind": "?"}, GOOD, GOOD | {"address": "x"}])
    named = [error["field"] for error in answer.json()["errors"]]
    assert named == ["feedback[0].id", "feedback[0].kind", "feedback[2].address"]


def test_a_suppression_is_looked_at_and_lifted(api, mail, tell):
    ada = mail()
    path = f"{SUPPRESSIONS}/{ada.address}"
    assert api.client.get(path).status_code == 404
    tell(bounce(ada))
    found = api.client.get(path)
    assert (found.status_code, found.json()["address"], found.json()["reason"]) == (
        200,
        ada.address.lower(),
        "bounce",
    )
    assert datetime.now(UTC) - datetime.fromisoformat(found.json()["since"]) < timedelta(minutes=1)
    lifted = api.client.delete(f"{SUPPRESSIONS}/{ada.address.upper()}")
    assert (lifted.status_code, lifted.content) == (204, b"")
    for answer in (api.client.get(path), api.client.delete(path)):
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert ada.address not in answer.text


@pytest.mark.parametrize("address", ["a+b%/c#{}@example.org", "ü{}@münchen.example"])
def test_an_address_of_any_letters(api, tell, name, address):
    address = address.format(name)
    tell({"id": name, "kind": "complaint", "address": address})
    path = f"{SUPPRESSIONS}/{address.replace('%', '%25').replace('/', '%2F').replace('#', '%23')}"
    assert api.client.get(path).json()["address"] == address
    assert api.client.delete(path).status_code == 204


@pytest.mark.parametrize("address", ["a%00@b.co", "ada", "x" * 300, "a%0A@b.co"])
def test_what_is_no_address_is_not_suppressed(api, address):
    for method in ("GET", "DELETE"):
        assert api.client.request(method, f"{SUPPRESSIONS}/{address}").status_code in (404, 422)


def test_no_key_no_feedback(api, mail, became):
    ada = mail()
    wrong = {"authorization": "Bearer wrong"}
    path = f"{SUPPRESSIONS}/{ada.address}"
    assert api.client.post(PATH, json=bounce(ada), headers=wrong).status_code == 401
    assert api.client.get(path, headers=wrong).status_code == 401
    assert api.client.delete(path, headers=wrong).status_code == 401
    assert became(ada) == UNTOUCHED


def test_an_address_comes_to_no_log(api, mail, tell, name):
    said = len(api.process.lines())
    address = f"{name}@example.org"
    api.client.post(PATH, json={"id": "", "kind": "bounce", "address": address})
    api.client.post(PATH, json={"id": "x", "kind": "bounce", "address": f"{address},"})
    tell({"id": name, "kind": "complaint", "address": address})
    for path in (f"{SUPPRESSIONS}/{address}", f"{SUPPRESSIONS}/{address}/more", f"{SUPPRESSIONS}/no-{address}"):
        for method in ("GET", "PUT", "DELETE"):
            api.client.request(method, path)
    lines = api.process.lines(said)
    assert f"{SUPPRESSIONS}/{{id}}" in {line["path"] for line in lines}
    assert address not in api.process.text()


def test_what_came_in_is_counted(api, mail, tell):
    def counted(status):
        text = api.client.get("/metrics").text
        wanted = f'tocsin_email_feedback_total{{kind="complaint",status="{status}"}} '
        return sum(float(line.removeprefix(wanted)) for line in text.splitlines() if line.startswith(wanted))

    before = {status: counted(status) for status in ("recorded", "duplicate", "unknown")}
    given = complaint(mail())
    tell(given, given, given, complaint(mail(), message_id="<x@example.org>"))
    assert {status: counted(status) - count for status, count in before.items()} == {
        "recorded": 1,
        "duplicate": 2,
        "unknown": 1,
    }
