"""The links of emails: what a mail provider does with them, what a person does, and what a scanner does."""

import re
import subprocess
import sys

import httpx
import pytest

pytest_plugins = ["tests.integration.gateways"]

ONE_CLICK = {"List-Unsubscribe": "One-Click"}
LINK = "import sys; from workers.unsubscribe import link; print(link(*sys.argv[1:]))"


@pytest.fixture(scope="module")
def link(fleet_environment):
    """link(user, category): the path of the link that a process of that fleet writes into an email."""

    def made(user, category="social"):
        command = [sys.executable, "-c", LINK, user, category]
        printed = subprocess.run(command, env=fleet_environment, capture_output=True, text=True, check=True).stdout
        begin = f"http://127.0.0.1:{fleet_environment['TOCSIN_GATEWAY_PORT']}"
        assert printed.startswith(f"{begin}/unsubscribe/")
        return printed.strip().removeprefix(begin)

    return made


@pytest.fixture
def ada(gateway, name, link):
    """The path of her link; she exists."""
    gateway.inboxes.database.execute("INSERT INTO users (id) VALUES (%s)", (name,))
    return link(name)


def opt_outs(gateway):
    return set(gateway.inboxes.database.execute("SELECT user_id, channel, category FROM opt_outs").fetchall())


def title(answer):
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return re.search("<h1>(.*?)</h1>", answer.text)[1]


BODIES = {
    "urlencoded": {"data": ONE_CLICK},
    "multipart": {"files": {"List-Unsubscribe": (None, "One-Click")}},
    "empty": {},
    "another": {"content": b"\0\xff", "headers": {"content-type": "application/json"}},
    "large": {"content": b"x" * 1_000_000},
}
CALLERS = {
    "a mail provider": {},
    "a page without a referrer": {"origin": "null"},
    "another site": {"origin": "https://mail.example.com", "sec-fetch-site": "cross-site"},
    "somebody else, signed in": {"cookie": "tocsin_token=x"},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS)
def test_one_click_unsubscribes_and_may_be_repeated(gateway, name, ada, body, caller):
    before = opt_outs(gateway)
    for _ in range(2):
        answer = gateway.client.post(ada, **body | {"headers": body.get("headers", {}) | caller})
        assert (answer.status_code, title(answer)) == (200, "You are unsubscribed")
        assert "set-cookie" not in answer.headers
        assert "location" not in answer.headers
        assert opt_outs(gateway) - before == {(name, "email", "social")}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_what_scanners_do_changes_nothing(gateway, ada, method):
    before = opt_outs(gateway)
    for path in (ada, f"{ada}/undo", f"{ada}?List-Unsubscribe=One-Click"):
        answer = gateway.client.request(method, path, headers={"accept": "*/*"})
        assert answer.status_code == (405 if method == "OPTIONS" else 200)
        assert bool(answer.content) == (method != "HEAD")
    assert opt_outs(gateway) == before
    gateway.client.post(ada)
    gateway.client.request(method, f"{ada}/undo")
    assert len(opt_outs(gateway) - before) == 1


def forms(answer):
    return re.findall(r'<form method="post" action="([^"]*)">', answer.text)


def test_the_page_says_what_it_would_do_what_it_did_and_the_way_back(gateway, name, ada):
    asked = gateway.client.get(ada)
    assert title(asked) == "Unsubscribe?"
    assert "no more emails about comments, followers, likes and mentions." in asked.text
    assert forms(asked) == [ada]
    done = gateway.client.post(ada, data=ONE_CLICK)
    assert forms(done) == [f"{ada}/undo"]
    assert gateway.client.get(ada).text == done.text, "it is as it is, and the way back is there"
    back = gateway.client.post(f"{ada}/undo")
    assert (back.status_code, title(back), forms(back)) == (200, "You are subscribed again", [ada])
    assert gateway.inboxes.one("SELECT count(*) FROM opt_outs WHERE user_id = %s", name) == 0
    assert gateway.client.post(f"{ada}/undo").text == back.text
    assert gateway.client.get(ada).text == gateway.client.get(f"{ada}/undo").text == asked.text


def test_who_unsubscribed_and_came_back_is_noted_once_each(gateway, name, ada):
    for path in (ada, ada, f"{ada}/undo", f"{ada}/undo"):
        gateway.client.post(path)
    query = "SELECT changed_by, scope, name, setting, before, after FROM preference_changes WHERE user_id = %s"
    assert gateway.inboxes.database.execute(f"{query} ORDER BY id", (name,)).fetchall() == [
        ("unsubscribe", "opt_out", "social", "email", None, True),
        ("unsubscribe", "opt_out", "social", "email", True, None),
    ]


def test_who_left_all_emails_comes_back_to_one_category(gateway, name, ada, link):
    gateway.inboxes.database.execute("INSERT INTO opt_outs VALUES (%s, 'email', '')", (name,))
    assert title(gateway.client.get(ada)) == "You are unsubscribed"
    assert title(gateway.client.post(f"{ada}/undo")) == "You are subscribed again"
    assert title(gateway.client.get(ada)) == "Unsubscribe?"
    assert title(gateway.client.get(link(name, "orders"))) == "You are unsubscribed"
    left = {category for user, _, category in opt_outs(gateway) if user == name}
    assert left == {"messages", "orders", "system"}


def test_categories_and_people_are_apart(gateway, name, ada, link):
    gateway.inboxes.database.execute("INSERT INTO users (id) VALUES (%s)", (f"{name}-bob",))
    orders, bob = link(name, "orders"), link(f"{name}-bob")
    before = opt_outs(gateway)
    for path in (ada, orders, bob):
        gateway.client.post(path)
    every = {(name, "email", "social"), (name, "email", "orders"), (f"{name}-bob", "email", "social")}
    assert opt_outs(gateway) - before == every
    gateway.client.post(f"{ada}/undo")
    assert opt_outs(gateway) - before == every - {(name, "email", "social")}
    assert title(gateway.client.get(ada)) == "Unsubscribe?"
    assert title(gateway.client.get(orders)) == "You are unsubscribed"


def test_a_category_that_is_gone_is_called_by_its_name(gateway, name, link):
    page = gateway.client.get(link(name, "<old> & gone")).text
    assert "emails about &lt;old&gt; &amp; gone." in page


def test_whom_nobody_knows_any_more_is_told_the_same(gateway, name, link):
    before = opt_outs(gateway)
    path = link(f"{name}-erased")
    assert title(gateway.client.post(path)) == "You are unsubscribed"
    assert gateway.client.post(f"{path}/undo").status_code == 200
    assert opt_outs(gateway) == before


def test_every_wrong_link_is_answered_alike(gateway, ada):
    before = opt_outs(gateway)
    said, _, sign = ada.rpartition("/")[2].partition(".")
    wrong = [
        "x",
        "x.y",
        said,
        f"{said}.",
        f".{sign}",
        f"{said}.{sign[::-1]}",
        f"{said[:-2]}Q.{sign}",
        "%00",
        "%ff",
    ]
    answers = [
        gateway.client.request(method, f"/unsubscribe/{token}{undo}")
        for token in wrong
        for undo in ("", "/undo")
        for method in ("GET", "POST")
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1
    assert len({str(sorted({**answer.headers, "date": ""}.items())) for answer in answers}) == 1
    assert title(answers[0]) == "This link does not work"
    assert opt_outs(gateway) == before


def test_the_page_holds_nothing_of_others_and_may_not_be_kept_or_framed(gateway, name, ada):
    for answer in (gateway.client.get(ada), gateway.client.post(ada), gateway.client.get("/unsubscribe/x")):
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["form-action"] == "'self'"
        assert "script-src" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-robots-tag"] == "noindex"
        assert "<script" not in answer.text
        assert re.findall('(?:src|href)="(?!/static/)', answer.text) == []
        assert name not in answer.text
        for file in re.findall('href="([^"]+)"', answer.text):
            assert gateway.client.get(file).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(gateway, ada, method):
    assert gateway.client.request(method, ada).status_code == 405


def test_the_token_comes_to_no_log(gateway, ada):
    for method in ("GET", "POST", "PUT"):
        gateway.client.request(method, ada)
    assert ada.rpartition("/")[2] not in gateway.process.text()


def test_without_the_database_it_says_so(fleet_environment, start_once, free_port, link, name, eventually):
    """A gateway of its own, whose Postgres is not there."""
    port = free_port()
    away = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "TOCSIN_GATEWAY_PORT": str(port)}
    process = start_once(fleet_environment | away, "python", "-m", "workers.gateway")
    path = link(name)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        def alive():
            try:
                return client.get("/healthz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(alive, seconds=60)
        for method in ("GET", "POST"):
            answer = client.request(method, path)
            assert (answer.status_code, title(answer)) == (503, "Not now")
            assert answer.headers["retry-after"]
        assert client.get("/unsubscribe/x").status_code == 404
    assert path.rpartition("/")[2] not in process.text()
