"""A user's zone, quiet hours and digests, as a backend service sets them."""

import pytest

pytest_plugins = ["tests.integration.fleet"]

NIGHTS = {"days": ["monday"], "from": "22:00", "to": "07:00"}
SAID = {"time_zone": "Europe/Vienna", "quiet_hours": NIGHTS, "digest_at": "18:15", "digest_day": "sunday"}


@pytest.fixture
def path(name):
    return f"/v1/users/{name}/settings"


def test_an_unknown_user_is_made_and_read_back(api, path, name):
    nothing = {"time_zone": None, "quiet_hours": None, "digest_at": "08:00", "digest_day": "monday"}
    assert api.client.get(path).json() == nothing
    assert api.one("SELECT count(*) FROM users WHERE id = %s", name) == 0
    assert api.client.put(path, json=SAID).json() == SAID
    assert api.client.get(path).json() == SAID
    assert api.one("SELECT unread FROM inboxes WHERE user_id = %s", name) == 0
    assert api.client.get(f"/v1/users/{name}").json()["time_zone"] == "Europe/Vienna"


def test_what_is_left_out_stays_and_null_clears(api, path):
    api.client.put(path, json=SAID)
    assert api.client.put(path, json={"quiet_hours": None}).json() == SAID | {"quiet_hours": None}
    assert api.client.put(path, json={"digest_at": None}).json()["digest_at"] == "08:00"


BAD = {
    "unknown zone": (b'{"time_zone": "Mars/Base"}', "time_zone", "IANA"),
    "camelCase": (b'{"timeZone": "UTC"}', "timeZone", "time_zone"),
    "no time": (b'{"quiet_hours": {"from": "25:00", "to": "07:00"}}', "quiet_hours.from", "22:30"),
    "no zone": (b'{"quiet_hours": {"from": "22:00", "to": "07:00"}}', "time_zone", "zone"),
    "short day": (
        b'{"quiet_hours": {"days": ["fri"], "from": "22:00", "to": "07:00"}}',
        "quiet_hours.days[0]",
        "must be one of monday, tuesday",
    ),
    "no JSON": (b"{", "", "JSON"),
    "no object": (b"[]", "", "object"),
}


@pytest.mark.parametrize(("body", "field", "words"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named_and_changes_nothing(api, path, body, field, words):
    rows = api.rows()
    answer = api.client.put(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert {error["field"]: words in error["message"] for error in answer.json()["errors"]} == {field: True}
    assert api.rows() == rows


@pytest.mark.parametrize("id_", ["x" * 129, "a%00b"], ids=["long", "NUL"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_an_impossible_id_has_no_settings(api, method, id_):
    answer = api.client.request(method, f"/v1/users/{id_}/settings", json={} if method == "PUT" else None)
    assert answer.status_code in ((422,) if method == "PUT" else (200, 422))


def test_no_key_no_settings(api, path):
    for method in ("GET", "PUT"):
        answer = api.client.request(method, path, json={}, headers={"authorization": "Bearer wrong"})
        assert answer.status_code == 401
