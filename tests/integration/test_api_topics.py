"""Topics, audiences and cancelling over HTTP and in a terminal."""

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.fleet import Api

pytest_plugins = ["tests.integration.fleet"]


def call(api: "Api", method: str, path: str, body: Any = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    return api.client.request(method, path, content=content)


def test_subscribing_counting_listing_and_leaving(api: "Api", name: str) -> None:
    users = [f"{name}-{n}" for n in range(5)]
    path = f"/v1/topics/{name}/subscribers"
    assert call(api, "PUT", path, {"users": [*users, users[0]]}).json() == {"topic": name, "changed": 5}
    assert call(api, "PUT", path, {"users": users[:2]}).json() == {"topic": name, "changed": 0}
    assert call(api, "GET", f"/v1/topics/{name}").json() == {"topic": name, "subscribers": 5}
    first = call(api, "GET", f"{path}?limit=3").json()
    assert first == {"topic": name, "subscribers": users[:3], "next": users[2]}
    last = call(api, "GET", f"{path}?limit=3&after={users[2]}").json()
    assert last == {"topic": name, "subscribers": users[3:], "next": None}
    assert call(api, "DELETE", path, {"users": [users[1], "nobody"]}).json() == {"topic": name, "changed": 1}
    assert call(api, "GET", f"/v1/topics/{name}").json()["subscribers"] == 4
    assert call(api, "GET", "/v1/topics/nobodys").json() == {"topic": "nobodys", "subscribers": 0}
    assert api.one("SELECT count(*) FROM users WHERE starts_with(id, %s)", name) == 5


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"users": []}, "users"),
        ({"users": ["x"] * 1001}, "users"),
        ({"users": ["a\nb"]}, "users[0]"),
        ({"users": ["ada", "", 5]}, "users[2]"),
        ({"users": "ada"}, "users"),
        ({"user": ["ada"]}, "user"),
        ({}, "users"),
        ([], ""),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_what_is_wrong_is_named(api: "Api", method: str, body: Any, field: str) -> None:
    answer = call(api, method, "/v1/topics/news/subscribers", body)
    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json()["errors"]]


@pytest.mark.parametrize("topic", ["a b", "x" * 129, "%00", "ä"])
def test_a_topic_is_what_goes_into_a_path(api: "Api", topic: str) -> None:
    answer = call(api, "PUT", f"/v1/topics/{topic}/subscribers", {"users": ["ada"]})
    assert answer.status_code == 422
    why = "must be text of length <= 128" if len(topic) > 128 else "may hold letters, digits, and . _ ~ : @ -"
    assert answer.json()["errors"] == [{"field": "topic", "message": why}]


def test_the_topics_of_a_user_are_listed(api: "Api", name: str) -> None:
    topics = [f"{name}-{n}" for n in range(3)]
    for topic in topics:
        call(api, "PUT", f"/v1/topics/{topic}/subscribers", {"users": [name, "ada"]})
    path = f"/v1/users/{name}/topics"
    assert call(api, "GET", path).json() == {"topics": topics, "next": None}
    assert call(api, "GET", f"{path}?limit=2").json() == {"topics": topics[:2], "next": topics[1]}
    assert call(api, "GET", f"{path}?limit=2&after={topics[1]}").json() == {"topics": topics[2:], "next": None}
    call(api, "DELETE", f"/v1/topics/{topics[0]}/subscribers", {"users": [name]})
    assert call(api, "GET", path).json()["topics"] == topics[1:]
    for nobody in ("nobody", "a%00b"):
        assert call(api, "GET", f"/v1/users/{nobody}/topics").json() == {"topics": [], "next": None}


def test_a_page_that_is_none_is_refused_in_words(api: "Api", name: str) -> None:
    answer = call(api, "GET", f"/v1/users/{name}/topics?limit=0&after=%00")
    assert {error["field"]: error["message"] for error in answer.json()["errors"]} == {
        "limit": "must be a number >= 1",
        "after": "must not contain control characters",
    }
    assert "stored" not in answer.json()["detail"], "nobody asked for that"


@pytest.mark.parametrize(
    ("recipients", "field"),
    [
        ({"topic": "a b"}, "recipients.topic"),
        ({"topic": "news", "all": True}, "recipients"),
        ({"all": False}, "recipients"),
        ({}, "recipients"),
        ({"everyone": True}, "recipients.everyone"),
        ({"all": "yes"}, "recipients.all"),
    ],
)
def test_an_audience_that_is_none(api: "Api", recipients: Any, field: str) -> None:
    answer = api.post({"type": "comment", "recipients": recipients})
    assert answer.status_code == 422
    assert field in [error["field"] for error in answer.json()["errors"]]


def test_an_audience_is_accepted_and_goes_to_the_bulk_lane(api: "Api", comment: Any, name: str) -> None:
    event = comment("ada", id=name) | {"recipients": {"topic": name}}
    assert api.post(event).json()["events"] == [{"id": name, "status": "accepted"}]
    assert api.post(event).json()["events"] == [{"id": name, "status": "duplicate"}]
    assert api.post(event | {"recipients": {"all": True}}).status_code == 409
    assert api.one("SELECT recipients FROM events WHERE id = %s", name) == {"topic": name}
    found = [json.loads(message) for message in api.redis.hvals("tocsin:pipeline-bulk.msgs")]
    sent = [message for message in found if message["args"] == [{"event": name, "after": None, "v": 1}]]
    assert [message["actor_name"] for message in sent] == ["expand"]


@pytest.mark.parametrize("id", ["{name}", "/shop#{name}", "tocsin:events/{name}-0", "{name} ä?"])
def test_cancelling_by_id(api: "Api", comment: Any, name: str, id: str) -> None:
    from urllib.parse import quote

    id = id.format(name=name)
    api.post(comment("ada", id=id, send_at="2100-01-01T00:00:00Z"))
    answer = call(api, "DELETE", f"/v1/events/{quote(id, safe='')}")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["id"], answer.json()["was"]) == (id, "waiting")
    again = call(api, "POST", "/v1/events/cancel", {"id": id})
    assert again.json() == {"events": [answer.json()], "next": None}
    assert api.one("SELECT count(*) FROM timers WHERE subject = %s", id) == 0


def test_cancelling_by_key(api: "Api", comment: Any, name: str) -> None:
    api.post([comment("ada", id=f"{name}-{n}", cancel_key=name) for n in range(3)])
    answer = call(api, "POST", "/v1/events/cancel", {"cancel_key": name}).json()
    assert [(one["id"], one["was"]) for one in answer["events"]] == [(f"{name}-{n}", "waiting") for n in range(3)]
    assert call(api, "POST", "/v1/events/cancel", {"cancel_key": "nobodys"}).json() == {"events": [], "next": None}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("DELETE", "/v1/events/nobodys", None, 404),
        ("DELETE", "/v1/events/%00", None, 404),
        ("POST", "/v1/events/cancel", {"id": "nobodys"}, 404),
        ("POST", "/v1/events/cancel", {}, 422),
        ("POST", "/v1/events/cancel", {"id": "a", "cancel_key": "b"}, 422),
        ("POST", "/v1/events/cancel", {"key": "b"}, 422),
    ],
)
def test_what_cannot_be_cancelled(api: "Api", method: str, path: str, body: Any, status: int) -> None:
    assert call(api, method, path, body).status_code == status


def test_what_was_refused_says_that_nothing_was_cancelled(api: "Api") -> None:
    for body in ({"key": "b"}, {}, []):
        assert call(api, "POST", "/v1/events/cancel", body).json()["detail"].endswith("; nothing was cancelled")


def test_the_command(api: "Api", comment: Any, name: str, start: Any) -> None:
    api.post([comment("ada", id=f"{name}-{n}", cancel_key=name) for n in range(2)])
    for words, code, says in (
        ([f"{name}-0"], 0, f"{name}-0 was cancelled before anything was written\n"),
        (["--key", name], 0, f"{name}-0 was cancelled before anything was written\n{name}-1 was cancelled"),
        (["nobodys"], 1, "nobody knows an event 'nobodys'"),
        (["--key", "nobodys"], 1, "nobody knows events of the key 'nobodys'"),
        ([], 2, "give either EVENT_ID or --key"),
    ):
        command = start(api.environment, "tocsin", "cancel", *words)
        assert command.popen.wait(60) == code
        assert says in command.text().replace("\n│ ", "")


def test_the_description_of_the_api_names_both_kinds_of_recipients(api: "Api") -> None:
    schema = api.client.get("/schema/openapi.json").json()
    body = schema["paths"]["/v1/events"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    either = body["oneOf"][0]["properties"]["recipients"]["anyOf"]
    assert {one["type"] for one in either} == {"array", "object"}
    assert {"/v1/topics/{topic}/subscribers", "/v1/events/cancel"} <= set(schema["paths"])
