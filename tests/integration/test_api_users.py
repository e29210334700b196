"""What the API knows of a user: set field by field, checked, and nothing else of it said."""

import pytest

pytest_plugins = ["tests.integration.fleet"]

ADA = {"email": "ada@example.org", "locale": "de-AT", "time_zone": "Europe/Vienna"}


@pytest.fixture
def path(name):
    return f"/v1/users/{name}"


def test_an_unknown_user_is_made_and_read_back(api, path, name):
    assert api.client.put(path, json=ADA).json() == {"id": name} | ADA
    assert api.client.get(path).json() == {"id": name} | ADA
    assert api.one("SELECT unread FROM inboxes WHERE user_id = %s", name) == 0


def test_what_is_left_out_stays_and_null_clears(api, path, name):
    api.client.put(path, json=ADA)
    assert api.client.put(path, json={"locale": None}).json() == {"id": name} | ADA | {"locale": None}
    assert api.client.put(path, json={}).json() == {"id": name} | ADA | {"locale": None}
    assert api.client.put(path, json={"locale": "pt-BR"}).json() == {"id": name} | ADA | {"locale": "pt-BR"}


def test_an_id_may_be_an_address(api, name):
    id_ = f"{name}ü@example.org"
    assert api.client.put(f"/v1/users/{id_}", json={}).json()["id"] == id_
    assert api.client.get(f"/v1/users/{id_}").json()["id"] == id_


def test_who_was_never_heard_of_is_404(api, path):
    answer = api.client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "no such user" in answer.json()["detail"]


BAD = {
    "no address": (b'{"email": "ada"}', "email", "ada@example.org"),
    "two addresses": (b'{"email": "a@b.co, c@d.co"}', "email", "one address"),
    "header injection": (b'{"email": "a@b.co\\r\\nBcc: x@y.co"}', "email", "one address"),
    "NUL": (b'{"email": "a\\u0000@b.co"}', "email", "one address"),
    "long address": (b'{"email": "%b@b.co"}' % (b"a" * 300), "email", "one address"),
    "empty address": (b'{"email": ""}', "email", "one address"),
    "number": (b'{"email": 5}', "email", "text"),
    "bad locale": (b'{"locale": "de_AT"}', "locale", "BCP 47"),
    "empty locale": (b'{"locale": ""}', "locale", "BCP 47"),
    "unknown zone": (b'{"time_zone": "Mars/Base"}', "time_zone", "IANA"),
    "path as zone": (b'{"time_zone": "../../etc/passwd"}', "time_zone", "IANA"),
    "empty zone": (b'{"time_zone": ""}', "time_zone", "IANA"),
    "misspelt field": (b'{"emial": "ada@example.org"}', "emial", "email"),
    "empty body": (b"", "", "empty"),
    "malformed": (b'{"email": ', "", "JSON"),
    "not UTF-8": (b'{"email": "\xff"}', "", "UTF-8"),
    "2,000 deep": (b"[" * 2000, "", "deep"),
    "no object": (b"[]", "", "object"),
}


@pytest.mark.parametrize(("body", "field", "words"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named_and_changes_nothing(api, path, body, field, words):
    lines, rows = len(api.process.lines()), api.rows()
    answer = api.client.put(path, content=body, headers={"content-type": "application/json"})
    problem = answer.json()
    assert answer.status_code in (400, 422), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == answer.status_code
    named = {error["field"]: error["message"] for error in problem.get("errors", [])}
    assert words in (named[field] if field else problem["detail"])
    assert [line["event"] for line in api.process.lines(lines)] == ["request_refused"]
    assert api.rows() == rows


def test_every_wrong_field_is_named_at_once(api, path):
    answer = api.client.put(path, json={"email": "x", "locale": "?", "time_zone": "?"})
    assert [error["field"] for error in answer.json()["errors"]] == ["email", "locale", "time_zone"]


@pytest.mark.parametrize("id_", ["x" * 129, "a%00b", "a%0Ab"], ids=["long", "NUL", "newline"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_an_impossible_id_is_refused(api, method, id_):
    rows = api.rows()
    answer = api.client.request(method, f"/v1/users/{id_}", json={} if method == "PUT" else None)
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert "database" not in answer.json()["detail"]
    assert api.rows() == rows


def test_no_key_no_user(api, path):
    for method in ("GET", "PUT"):
        answer = api.client.request(method, path, json={}, headers={"authorization": "Bearer wrong"})
        assert answer.status_code == 401
    assert api.one("SELECT count(*) FROM users WHERE id = %s", path.rpartition("/")[2]) == 0


def test_an_address_comes_to_no_log(api, path, name):
    for email in (f"{name}@example.org", f"{name}@", f"{name}@example.org,"):
        api.client.put(path, json={"email": email, "time_zone": "Mars"})
        api.client.put(path, json={"email": email})
    assert f"{name}@" not in api.process.text()


def test_quiet_hours_do_not_lose_their_zone(api, path):
    hours = {"from": "22:00", "to": "07:00", "days": ["monday"]}
    settings = f"{path}/settings"
    assert api.client.put(settings, json={"time_zone": "Europe/Vienna", "quiet_hours": hours}).status_code == 200
    answer = api.client.put(path, json={"time_zone": None, "email": "ada@example.org"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "time_zone"
    assert api.client.get(path).json()["email"] is None
    assert api.client.put(settings, json={"quiet_hours": None}).status_code == 200
    assert api.client.put(path, json={"time_zone": None}).status_code == 200
