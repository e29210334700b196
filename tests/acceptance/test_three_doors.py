"""The Procfile's fleet: events through every door come to every screen of their user, once, and to no other."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest_plugins = ["tests.integration.fleet"]

DATA = {
    "comment": {"userName": "Bob", "comment": "Great post!", "postId": "p-1", "commentId": "c-1"},
    "mention": {"userName": "Bob", "text": "@ada?", "url": "/posts/p-1"},
    "order": {"orderId": "A-1", "status": "shipped"},
    "like": {"userName": "Bob", "postTitle": "Notes", "postId": "p-1"},
    "payment": {"paymentId": "pay-1", "amount": "€ 5", "status": "received"},
    "system": {"title": "Over", "text": "The end."},
}


@pytest.fixture(scope="module")
def running(fleet):
    fleet.run()
    yield fleet
    for process in fleet.processes.values():
        written = process.text()
        assert "Traceback" not in written, written[-3000:]
        assert DATA["comment"]["comment"] not in written


def http(fleet, event):
    assert fleet.api.post("/v1/events", json=event).status_code == 202


def stream(fleet, event):
    fleet.redis.xadd("tocsin:events", {"event": json.dumps(event)})


def sql(fleet, event):
    fleet.database.execute(
        "INSERT INTO events (id, type, recipients, data) VALUES (%s, %s, %s, %s)",
        (event["id"], event["type"], json.dumps(event["recipients"]), json.dumps(event["data"])),
    )


def event(id_, type_, *users):
    return {"id": id_, "type": type_, "recipients": users, "data": DATA[type_]}


def heard_everywhere(eventually, heard, count):
    """What both connections were told, once each was told `count`."""
    eventually(lambda: min(map(len, heard.both)) >= count, seconds=15)
    return heard.both


def unread(of):
    return [content["count"] for name, content in of if name == "unread-count"][-1]


def test_one_event_through_each_door_arrives_once_everywhere(running, listening, inbox, name, eventually):
    with listening(name) as heard:
        assert heard.stream[0] == heard.socket[0] == ("unread-count", {"count": 0})
        http(running, event(f"{name}-1", "comment", name))
        stream(running, event(f"{name}-2", "mention", name))
        sql(running, event(f"{name}-3", "order", name))
        heard_everywhere(eventually, heard, 3)
        # Every door once more with the same: nothing may come of it before the last one arrives.
        http(running, event(f"{name}-1", "comment", name))
        stream(running, event(f"{name}-3", "order", name))
        stream(running, event(f"{name}-4", "system", name))
        for told in heard_everywhere(eventually, heard, 4):
            assert sorted(item["type"] for item in told) == ["comment", "mention", "order", "system"]
            assert told[-1]["type"] == "system"
            assert [item["seq"] for item in told] == [1, 2, 3, 4]
            (shown,) = [item for item in told if item["type"] == "comment"]
            assert shown["title"] == "New comment from Bob"
            assert shown["message"] == "Great post!"
            assert shown["actionUrl"] == "/posts/p-1#comment-c-1"
            assert shown["data"] == DATA["comment"]
            assert shown.keys() >= {"id", "createdAt"}
        eventually(lambda: unread(heard.stream) == unread(heard.socket) == 4)
    listed = inbox(name).json()["notifications"]
    assert [item["seq"] for item in listed] == [4, 3, 2, 1]
    assert inbox(name, path="/unread-count").json() == {"count": 4}


def test_the_third_of_a_type_arrives_as_a_group(running, listening, inbox, name, eventually):
    with listening(name) as heard:
        for number, door in enumerate((http, stream, sql), 1):
            door(running, event(f"{name}-{number}", "like", name))
            heard_everywhere(eventually, heard, number)
        for told in heard.both:
            first, second, group = told
            assert "group" not in first or first["group"] is None
            assert group["group"] == {"count": 3, "leading": [first["id"], second["id"]]}
            assert group["title"] == "Bob liked your posts"
        eventually(lambda: unread(heard.stream) == unread(heard.socket) == 1)
    (listed,) = inbox(name).json()["notifications"]
    assert listed["group"]["count"] == 3


def test_metrics_follow_what_people_do(running, listening, inbox, name, eventually):
    """Nobody else in this module sends payments."""
    with listening(name) as heard:
        http(running, event(f"{name}-1", "payment", name, f"{name}-friend"))
        ((item,), _) = heard_everywhere(eventually, heard, 1)
        path = "/v1/metrics/notifications?type=payment"
        eventually(lambda: running.api.get(path).json()["sent"] == 2)
        assert inbox(name, "POST", f"/{item['id']}/read").json() == {"count": 0}
        expected = {"sent": 2, "read": 1, "clicked": 0, "readRate": 50.0, "clickRate": 0.0}
        assert running.api.get(path).json() == expected
        for _ in range(2):  # a second click counts no more
            assert inbox(name, "POST", f"/{item['id']}/clicked").is_success
        assert running.api.get(path).json() == expected | {"clicked": 1, "clickRate": 50.0}
        eventually(lambda: unread(heard.stream) == unread(heard.socket) == 0)


def test_nobody_sees_what_is_anothers(running, listening, inbox, name, eventually):
    ada, eve = f"{name}-ada", f"{name}-eve"
    with listening(ada) as of_ada, listening(eve) as of_eve:
        http(running, event(f"{name}-1", "comment", ada))
        ((secret,), _) = heard_everywhere(eventually, of_ada, 1)
        http(running, event(f"{name}-2", "mention", eve))
        for told in heard_everywhere(eventually, of_eve, 1):
            assert [item["type"] for item in told] == ["mention"]
        for told in of_ada.both:
            assert [item["type"] for item in told] == ["comment"]
    assert [item["type"] for item in inbox(eve).json()["notifications"]] == ["mention"]
    for verb in ("read", "clicked", "archive"):
        assert inbox(eve, "POST", f"/{secret['id']}/{verb}").status_code == 404
    assert inbox(ada, path="/unread-count").json() == {"count": 1}


def test_a_killed_pipeline_loses_and_repeats_nothing(running, listening, name, eventually):
    """kill -9 of the worker in the middle of 200 events; a supervisor starts it again."""
    users = [f"{name}-{n}" for n in range(200)]
    events = [event(f"{user}-e", "comment", user) for user in users]
    with listening(users[0]) as first, listening(users[-1]) as last, ThreadPoolExecutor(1) as sender:

        def send():
            for begin in range(0, 200, 5):
                http(running, events[begin : begin + 5])

        sending = sender.submit(send)
        eventually(lambda: first.both[0])
        running.processes["pipeline"].kill()
        sending.result(30)
        running.run("pipeline")
        sent = """SELECT count(*) FROM deliveries WHERE starts_with(user_id, %s) AND state = 'sent'"""
        eventually(lambda: running.one(sent, name) == 200, seconds=40)
        for heard in (first, last):
            heard_everywhere(eventually, heard, 1)
            assert [len(told) for told in heard.both] == [1, 1]
    exactly = "SELECT count(*), sum(unread), max(seq) FROM inboxes WHERE starts_with(user_id, %s)"
    assert running.database.execute(exactly, (name,)).fetchone() == (200, 200, 1)
    assert running.one("SELECT count(*) FROM dead_letters") == 0
