"""What a user wants, as backend services set and read it; and the record of who changed what."""

import pytest

pytest_plugins = ["tests.integration.fleet"]

OFF = {"global": {"channels": {"web": False}}}


@pytest.fixture
def path(name):
    return f"/v1/users/{name}/preferences"


def changes(answer):
    assert answer.status_code == 200, answer.text
    keys = ("by", "scope", "name", "setting", "before", "after")
    return [tuple(change[key] for key in keys) for change in answer.json()["changes"]]


def test_whom_nobody_knows_has_the_defaults(api, path, name):
    answer = api.client.get(path).json()
    assert answer["preferences"][0] == {
        "type": "comment",
        "category": "social",
        "label": "comments",
        "enabled": True,
        "channels": {"web": True, "email": False, "push": False},
    }
    assert (answer["global"], answer["chosen"], answer["opt_outs"]) == ({"enabled": None, "channels": {}}, {}, [])
    assert api.client.get(f"{path}/changes").json() == {"changes": [], "next": None}
    assert api.one("SELECT count(*) FROM users WHERE id = %s", name) == 0


def test_what_is_said_is_kept_and_makes_the_user(api, path, name):
    said = {
        "preferences": [{"type": "like", "enabled": False}],
        "categories": [{"category": "orders", "channels": {"email": "if unread after 15m"}}],
        "global": {"channels": {"push": True}},
        "opt_outs": [{"channel": "email", "category": "social"}],
    }
    answer = api.client.put(path, json=said)
    assert answer.status_code == 200, answer.text
    found = {p["type"]: (p["enabled"], p["channels"]) for p in answer.json()["preferences"]}
    assert found["like"] == (False, {"web": True, "email": False, "push": True})
    assert found["order"] == (True, {"web": True, "email": "if unread after 15m", "push": True})
    assert answer.json()["opt_outs"] == [{"channel": "email", "category": "social", "out": True}]
    assert api.client.get(path).json() == answer.json() == api.client.put(path, json=said).json()
    assert api.one("SELECT unread FROM inboxes WHERE user_id = %s", name) == 0


def test_the_newest_change_comes_first_a_page_at_a_time(api, path):
    for wish in (True, "digest daily", None):
        api.client.put(path, json={"categories": [{"category": "orders", "channels": {"email": wish}}]})
    api.client.put(path, json={"opt_outs": [{"channel": "email"}]})
    every = [
        ("service", "opt_out", "", "email", None, True),
        ("service", "category", "orders", "email", "digest daily", None),
        ("service", "category", "orders", "email", True, "digest daily"),
        ("service", "category", "orders", "email", None, True),
    ]
    whole = api.client.get(f"{path}/changes")
    assert changes(whole) == every
    assert whole.json()["next"] is None
    assert [change["at"] for change in whole.json()["changes"]] == sorted(
        (change["at"] for change in whole.json()["changes"]), reverse=True
    )
    first = api.client.get(f"{path}/changes", params={"limit": 3})
    rest = api.client.get(f"{path}/changes", params={"limit": 3, "before": first.json()["next"]})
    assert changes(first) + changes(rest) == every
    assert rest.json()["next"] is None


BAD = {
    "unknown type": (b'{"preferences": [{"type": "gossip"}]}', "preferences[0].type"),
    "no type": (b'{"preferences": [{"enabled": true}]}', "preferences[0].type"),
    "misspelt channels": (b'{"global": {"chanels": {"push": false}}}', "global.chanels"),
    "channel beside channels": (b'{"preferences": [{"type": "like", "email": false}]}', "preferences[0].email"),
    "out and in": (b'{"opt_outs": [{"channel": "email"}, {"channel": "email", "out": false}]}', "opt_outs[1]"),
    "unknown category": (b'{"categories": [{"category": "gossip"}]}', "categories[0].category"),
    "unknown channel": (b'{"global": {"channels": {"fax": true}}}', "global.channels.fax"),
    "unknown time": (b'{"global": {"channels": {"email": "later"}}}', "global.channels.email"),
    "web later": (b'{"global": {"channels": {"web": "digest daily"}}}', "global.channels.web"),
    "number": (b'{"global": {"enabled": 1}}', "global.enabled"),
    "unknown opt-out": (b'{"opt_outs": [{"channel": "fax"}]}', "opt_outs[0].channel"),
    "misspelt": (b'{"optOuts": []}', "optOuts"),
    "no object": (b"[]", ""),
    "no JSON": (b"{", ""),
}


@pytest.mark.parametrize(("body", "field"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named_and_changes_nothing(api, path, name, body, field):
    answer = api.client.put(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert api.one("SELECT count(*) FROM users WHERE id = %s", name) == 0


@pytest.mark.parametrize("id_", ["x" * 129, "a%00b", "a%0Ab"], ids=["long", "NUL", "newline"])
def test_an_impossible_id_has_no_preferences(api, id_):
    path = f"/v1/users/{id_}/preferences"
    assert api.client.put(path, json=OFF).status_code == 422
    for read in (path, f"{path}/changes"):
        assert api.client.get(read).status_code in (200, 422)


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 501}, {"before": 0}, {"before": "x"}, {"before": 2**70}]
)
def test_a_page_that_is_none(api, path, query):
    answer = api.client.get(f"{path}/changes", params=query)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{next(iter(query))}: must be a number"), answer.text
    assert "stored" not in answer.json()["detail"]


def test_no_key_no_preferences(api, path, name):
    for method, place in (("GET", path), ("PUT", path), ("GET", f"{path}/changes")):
        answer = api.client.request(method, place, json=OFF, headers={"authorization": "Bearer wrong"})
        assert answer.status_code == 401
    assert api.one("SELECT count(*) FROM users WHERE id = %s", name) == 0


@pytest.mark.parametrize("rest", ["", "/preferences", "/settings", "/preferences/x", "%2F/preferences"])
def test_the_log_tells_which_path_was_refused_and_not_whose(api, name, rest):
    lines = len(api.process.lines())
    api.client.put(f"/v1/users/{name}@example.org{rest}", json=[])
    (line,) = api.process.lines(lines)
    known = rest.removeprefix("%2F") if rest != "/preferences/x" else ""
    assert line["path"] == f"/v1/users/{{id}}{known}"
    assert name not in str(line)
