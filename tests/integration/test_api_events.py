"""The HTTP door: what is accepted is stored once and survives a crash; what is wrong is named, and not stored."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from workers import embedded

pytest_plugins = ["tests.integration.fleet"]

DATA = {"userName": "Bob", "comment": "Great post!", "postId": "p-1", "commentId": "c-1"}
EVENT = {"type": "comment", "recipients": ["ada"], "data": DATA}
MENTION = {"type": "mention", "recipients": ["ada"], "data": {"userName": "Bob", "text": "hi", "url": "/posts/1"}}
CLOUD = {"specversion": "1.0", "source": "/shop", "type": "comment", "data": DATA}


def with_data(**changes):
    return EVENT | {"data": DATA | changes}


def with_raw_data(value):
    """An event whose data holds `value` as it is written."""
    return json.dumps(with_data(x="HERE")).encode().replace(b'"HERE"', value)


def without(*fields):
    return {key: value for key, value in EVENT.items() if key not in fields}


BAD = {
    "malformed JSON": (b'{"type": "comment", "recip', "", "JSON"),
    "malformed array": (b'[{"type": "comment"}', "", "JSON"),
    "wrong, then malformed": (b'{"type": 5, "recipients', "", "JSON"),
    "wrong, then 2,000 deep": (b'{"type": 5, "x": ' + b"[" * 2000 + b"]" * 2000 + b"}", "", "deep"),
    "no JSON at all": (b"hello", "", "JSON"),
    "not UTF-8": (with_raw_data(b'"\xff"'), "", "UTF-8"),
    "empty body": (b"", "", "empty"),
    "not an object": (b'"event"', "", "object"),
    "array of no objects": (b"[5]", "events[0]", "object"),
    "empty array": ([], "", "1 to 500"),
    "501 events": ([EVENT] * 501, "", "501"),
    "near type": (EVENT | {"type": "coment"}, "type", "did you mean 'comment'?"),
    "unknown type": (EVENT | {"type": "zzz"}, "type", "payment"),
    "missing type": (without("type"), "type", "required"),
    "missing recipients": (without("recipients"), "recipients", "required"),
    "no recipients": (EVENT | {"recipients": []}, "recipients", "1"),
    "one recipient as text": (EVENT | {"recipients": "ada"}, "recipients", "array"),
    "recipient of no text": (EVENT | {"recipients": ["ada", 5]}, "recipients[1]", "text"),
    "empty recipient": (EVENT | {"recipients": ["ada", ""]}, "recipients[1]", "1"),
    "long recipient": (EVENT | {"recipients": ["a" * 129]}, "recipients[0]", "128"),
    "1,001 recipients": (EVENT | {"recipients": [f"u{n}" for n in range(1001)]}, "recipients", "1000"),
    "NUL in a recipient": (EVENT | {"recipients": ["a\0b"]}, "recipients[0]", "control"),
    "unknown field": (EVENT | {"recipient": "ada"}, "recipient", "did you mean 'recipients'?"),
    "event in an array": ([EVENT, with_data(userName=5)], "events[1].data.userName", "string"),
    "data against the schema": (with_data(userName=5), "data.userName", "string"),
    "data of no object": (EVENT | {"data": []}, "data", "object"),
    "event over 64 KiB": (with_data(comment="x" * 65_536), "", "65,536"),
    "NUL in data": (with_data(comment="a\0b"), "data.comment", "NUL"),
    "NUL in a key of data": (with_data(**{"x\0y": 1}), "data", "NUL"),
    "NUL in group_key": (EVENT | {"group_key": "a\0"}, "group_key", "NUL"),
    "1,000 deep": (with_raw_data(b"[" * 1000 + b"]" * 1000), "", "deep"),
    "1,000 deep array": (b"[" * 1000 + b"]" * 1000, "", "deep"),
    "1e400": (with_raw_data(b"1e400"), "", "range"),
    "5,000-digit integer": (with_raw_data(b"1" * 5000), "", "range"),
    "lone surrogate": (with_raw_data(b'"\\ud800"'), "", "surrogate"),
    "script as a link": (
        MENTION | {"data": MENTION["data"] | {"url": "javascript:alert(1)"}},
        "data.url",
        "https",
    ),
    "naive send_at": (EVENT | {"send_at": "2030-01-01T00:00:00"}, "send_at", "+01:00"),
    "send_at in words": (EVENT | {"send_at": "tomorrow"}, "send_at", "instant"),
    "send_at after year 9999": (EVENT | {"send_at": "9999-12-31T23:59:59-23:00"}, "send_at", ""),
    "expires_at before year 1": (EVENT | {"expires_at": "0001-01-01T00:00:00+23:00"}, "expires_at", ""),
    "unknown importance": (EVENT | {"importance": "urgent"}, "importance", "low, normal"),
    "CloudEvent without subject": (CLOUD | {"id": "1"}, "subject", "required"),
    "CloudEvent 0.3": (CLOUD | {"id": "1", "subject": "ada", "specversion": "0.3"}, "specversion", "1.0"),
}


def assert_refused(api, response, status, lines, rows):
    """A problem document (RFC 9457), one log line, and nothing stored."""
    problem = response.json()
    assert response.status_code == status, problem
    assert response.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail"} <= problem.keys()
    assert problem["status"] == status
    assert all(set(error) == {"field", "message"} for error in problem.get("errors", []))
    assert [line["event"] for line in api.process.lines(lines)] == ["request_refused"]
    assert api.rows() == rows
    return problem


@pytest.mark.parametrize(("body", "field", "words"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named_and_leaves_nothing(api, body, field, words):
    lines, rows = len(api.process.lines()), api.rows()
    problem = assert_refused(api, api.post(body), 422, lines, rows)
    named = {error["field"]: error["message"] for error in problem.get("errors", [])}
    assert field in named
    assert words in named[field]
    assert named[field] in problem["detail"]


@pytest.mark.parametrize("chunked", [False, True], ids=["with content-length", "chunked"])
def test_a_body_over_8_MiB_is_413(api, chunked):
    lines, rows = len(api.process.lines()), api.rows()
    body = b"[" + b" " * (8 * 1024 * 1024) + b"]"
    pieces = (body[at : at + 65_536] for at in range(0, len(body), 65_536))
    response = api.client.post("/v1/events", content=pieces if chunked else body)
    problem = assert_refused(api, response, 413, lines, rows)
    assert "8,388,608" in problem["detail"]


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("dryrun=true", "dryrun", "is not a known parameter; did you mean 'dry_run'?"),
        ("dry_run=false&zzz", "zzz", "is not a known parameter"),
        ("dry_run=yes", "dry_run", "must be true or false"),
        ("dry_run=", "dry_run", "must be true or false"),
    ],
)
def test_a_misspelt_dry_run_is_not_sent(api, comment, name, query, field, message):
    answer = api.client.post(f"/v1/events?{query}", json=comment(name, id=name))
    assert (answer.status_code, api.stored(name)) == (422, 0), answer.text
    assert answer.json()["errors"] == [{"field": field, "message": message}]
    assert answer.json()["detail"] == f"{field}: {message}; nothing was stored"


def test_every_wrong_field_is_named_at_once(api):
    wrong = api.post(without("type") | {"recipients": [1], "importance": "urgent", "colour": "red"})
    assert {error["field"] for error in wrong.json()["errors"]} == {
        "type",
        "recipients[0]",
        "importance",
        "colour",
    }


def test_an_event_is_accepted_once(api, comment, name):
    event = comment(name, id=name)
    first, again = api.post(event), api.post(event)
    assert first.status_code == again.status_code == 202
    assert first.json() == {"events": [{"id": name, "status": "accepted"}]}
    assert again.json() == {"events": [{"id": name, "status": "duplicate"}]}
    assert api.stored(name) == 1


def test_an_event_without_id_gets_one(api, comment, name):
    ids = [api.post(comment(name)).json()["events"][0]["id"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert api.stored(*ids) == 2


def test_the_order_of_keys_and_repeated_recipients_make_no_other_body(api, comment, name):
    event = comment([name, name], id=name)
    assert api.post(event).json()["events"][0]["status"] == "accepted"
    turned = dict(reversed(list(event.items()))) | {"recipients": [name]}
    assert api.post(turned).json()["events"][0]["status"] == "duplicate"


def test_an_id_used_before_with_another_body_stores_nothing_of_the_call(api, comment, name):
    api.post(comment(name, id=name))
    lines, rows = len(api.process.lines()), api.rows()
    clash = api.post([comment(name, id=f"{name}-new"), comment("somebody else", id=name)])
    problem = assert_refused(api, clash, 409, lines, rows)
    assert name in problem["errors"][0]["message"]
    assert problem["errors"][0]["field"] == "events[1].id"
    assert api.stored(f"{name}-new") == 0


def test_two_bodies_of_one_id_in_one_call_clash(api, comment, name):
    rows = api.rows()
    assert api.post([comment(name, id=name), comment("eve", id=name)]).status_code == 409
    assert api.rows() == rows


def test_arrays_are_stored_whole_or_not_at_all(api, comment, name):
    ids = [f"{name}-{n}" for n in range(500)]
    events = [comment(name, id=id_) for id_ in ids]
    assert api.post([*events[:499], events[499] | {"recipients": []}]).status_code == 422
    assert api.stored(*ids) == 0
    answer = api.post(events)
    assert answer.status_code == 202
    assert answer.json() == {"events": [{"id": id_, "status": "accepted"} for id_ in ids]}
    assert api.stored(*ids) == 500


def test_the_same_event_50_times_at_once_is_one_row(api, comment, name):
    event = comment(name, id=name)
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: api.post(event), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    statuses = sorted(answer.json()["events"][0]["status"] for answer in answers)
    assert statuses == ["accepted"] + ["duplicate"] * 49
    assert api.stored(name) == 1


def test_calls_at_once_keep_their_own_answers(api, comment, name):
    """Calls share a commit; a clash in one must not fail or answer another."""
    api.post(comment(name, id=name))
    calls = [comment("eve", id=name) if n % 3 == 0 else comment(name, id=f"{name}-{n}") for n in range(30)]
    with ThreadPoolExecutor(30) as threads:
        answers = list(threads.map(api.post, calls))
    assert [answer.status_code for answer in answers] == [409 if n % 3 == 0 else 202 for n in range(30)]
    assert [a.json()["events"][0]["id"] for a in answers if a.is_success] == [
        c["id"] for c in calls if c["id"] != name
    ]


def test_a_later_event_waits_for_its_time(api, comment, name):
    assert api.post(comment(name, id=name, send_at="2037-01-01T12:00:00+02:00")).status_code == 202
    assert (
        str(api.one("SELECT due_at AT TIME ZONE 'UTC' FROM timers WHERE subject = %s", name))
        == "2037-01-01 10:00:00"
    )


def test_cloud_events_are_accepted_and_known_by_source_and_id(api, name):
    event = CLOUD | {"id": name, "subject": name, "time": "2026-01-01T00:00:00Z", "traceparent": "00-1-2-03"}
    kind = {"content-type": "application/cloudevents+json"}
    assert api.post(event, **kind).json() == {"events": [{"id": f"/shop#{name}", "status": "accepted"}]}
    assert api.post(event, **kind).json()["events"][0]["status"] == "duplicate"
    other = api.post(
        [event | {"source": "/blog"}, event], **{"content-type": "application/cloudevents-batch+json"}
    )
    assert [answer["status"] for answer in other.json()["events"]] == ["accepted", "duplicate"]
    assert api.one("SELECT recipients FROM events WHERE id = %s", f"/shop#{name}") == [name]
    assert api.post(event | {"subject": "eve"}).status_code == 409


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", "Basic dGVzdDp0ZXN0", "Bearer tk_00000000_wrong"]
)
def test_without_a_valid_key_nothing_is_done(api, header):
    lines, rows = len(api.process.lines()), api.rows()
    response = api.post(EVENT, authorization=header)
    assert_refused(api, response, 401, lines, rows)
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_key_works_from_its_creation_until_5_s_after_its_end(api, start, comment, name, eventually):
    created = start(api.environment, "tocsin", "keys", "create", "shop")
    assert created.popen.wait(20) == 0
    key = created.text().split()[-1]
    id_ = key.split("_")[1]
    assert api.post(comment(name), authorization=f"Bearer {key}").status_code == 202
    assert api.one("SELECT count(*) FROM api_keys WHERE hash::text LIKE %s", f"%{key}%") == 0
    revoked = start(api.environment, "tocsin", "keys", "revoke", id_)
    assert revoked.popen.wait(20) == 0
    eventually(lambda: api.post(comment(name), authorization=f"Bearer {key}").status_code == 401, seconds=6)
    assert key not in api.process.text()


def test_no_content_and_no_key_comes_to_the_logs(api, comment, name):
    canary = f"canary{name}"
    data = DATA | {"comment": canary}
    api.post(comment(canary, id=name, data=data, group_key=canary, actor=canary, source=canary))
    api.post(comment("eve", id=name, data=data))
    api.post(comment([canary, ""], data=data))
    api.post(comment(name, data=data | {"userName": [canary]}))
    api.post(comment(name, type=canary, data=data))
    api.post(comment(name, send_at="9999-12-31T23:59:59-23:00", data=data))
    api.post(comment(name, importance=canary))
    api.post(json.dumps(comment(name, data=data))[:-5].encode())
    api.post(comment(name, data=data), authorization=f"Bearer {canary}")
    assert canary not in api.process.text()
    assert api.environment["TOCSIN_API_KEY"] not in api.process.text()


def api_of_its_own(start, environment, **changes):
    port = embedded.free_port()
    changed = environment | {"TOCSIN_API_PORT": str(port)} | changes
    return start(changed, "python", "-m", "workers.api"), f"http://127.0.0.1:{port}"


def answering(eventually, process, url):
    def alive():
        assert process.popen.poll() is None, process.text()
        try:
            return httpx.get(f"{url}/healthz").is_success
        except httpx.TransportError:
            return False

    eventually(alive, seconds=60)


def test_202_without_redis_and_the_row_survives_kill_9(api, start, comment, name, eventually):
    away = f"redis://127.0.0.1:{embedded.free_port()}"
    process, url = api_of_its_own(start, api.environment, REDIS_URL=away)
    answering(eventually, process, url)
    with httpx.Client(base_url=url, headers=api.client.headers, timeout=20) as client:
        assert client.post("/v1/events", json=comment(name, id=f"{name}-1")).status_code == 202
        assert client.post("/v1/events", json=comment(name, id=f"{name}-2")).status_code == 202
        process.kill()
    assert api.stored(f"{name}-1", f"{name}-2") == 2
    assert api.one("SELECT routed_count FROM events WHERE id = %s", f"{name}-1") == 0
    assert "Traceback" not in process.text()


def test_without_postgres_503_and_the_same_call_again_is_accepted(api, start, comment, name, eventually, tmp_path):
    with embedded.start(tmp_path / "servers", valkey=False, durable=False) as servers:
        environment = api.environment | {"DATABASE_URL": servers.database_url}
        migrated = start(environment, "tocsin", "migrate")
        assert migrated.popen.wait(30) == 0, migrated.text()
        process, url = api_of_its_own(start, environment)
        answering(eventually, process, url)
        event = comment(name, id=name)
        with httpx.Client(base_url=url, headers=api.client.headers, timeout=30) as client:
            assert client.post("/v1/events", json=comment(name)).status_code == 202
            servers.postgres.kill()
            refused = client.post("/v1/events", json=event)
            assert refused.status_code == 503
            assert refused.headers["content-type"] == "application/problem+json"
            assert 0 < int(refused.headers["retry-after"]) <= 30
            servers.postgres.launch()
            accepted = eventually(
                lambda: (r := client.post("/v1/events", json=event)).is_success and r, seconds=30
            )
        assert accepted.status_code == 202
        with psycopg.connect(servers.database_url) as connection:
            assert connection.execute("SELECT count(*) FROM events WHERE id = %s", (name,)).fetchone() == (1,)
        assert "Traceback" not in process.text()


def test_a_taken_port_is_said_in_one_line(api, start):
    second = start(api.environment, "python", "-m", "workers.api")
    assert second.popen.wait(20) == 1
    assert second.text().splitlines()[-1].startswith(f"port {api.environment['TOCSIN_API_PORT']} is taken")
    assert "Traceback" not in second.text()


def test_without_servers_named_it_says_so_in_one_line(api, start, tmp_path):
    bare = {name: value for name, value in api.environment.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    process = start(bare, "python", "-m", "workers.api")
    assert process.popen.wait(20) == 1
    assert "REDIS_URL" in process.text()
    assert "Traceback" not in process.text()
