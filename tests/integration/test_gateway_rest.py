"""The inbox over REST: pages, read, clicked, archived, all read; each change once, and only one's own."""

from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

pytest_plugins = ["tests.integration.gateways"]

ROOT = "/api/notifications"


@pytest.fixture
def kind(name):
    """A type nobody else counts."""
    return f"kind-{name}"


def titles(answer):
    assert answer.status_code == 200, answer.text
    return [item["title"] for item in answer.json()["notifications"]]


def test_pages_are_newest_first_and_end(gateway, name):
    for number in range(5):
        gateway.inboxes.write(name, f"n{number}")
    first = gateway.get(name, ROOT, limit=2)
    assert titles(first) == ["n4", "n3"]
    second = gateway.get(name, ROOT, limit=2, before=first.json()["next"])
    assert titles(second) == ["n2", "n1"]
    third = gateway.get(name, ROOT, limit=2, before=second.json()["next"])
    assert titles(third) == ["n0"]
    assert third.json()["next"] is None


def test_a_page_that_is_just_full_has_no_next(gateway, name):
    for number in range(2):
        gateway.inboxes.write(name, f"n{number}")
    assert gateway.get(name, ROOT, limit=2).json()["next"] is None


def test_an_item_says_everything(gateway, name):
    written = gateway.inboxes.write(name).item
    (item,) = gateway.get(name, ROOT).json()["notifications"]
    assert item.pop("createdAt").endswith("Z")
    assert item == {
        "id": str(written.id),
        "seq": 1,
        "type": "comment",
        "category": "social",
        "importance": "normal",
        "title": "New",
        "message": "Hi",
        "data": {"a": "b"},
        "actionUrl": "/posts/1",
        "read": False,
        "readAt": None,
        "clickedAt": None,
        "archivedAt": None,
        "group": None,
    }


def test_the_list_is_filtered_by_type_and_by_read(gateway, name):
    gateway.inboxes.write(name, "like", kind="like")
    read = gateway.inboxes.write(name, "read").item
    gateway.inboxes.write(name, "unread")
    gateway.post(name, f"{ROOT}/{read.id}/read")
    assert titles(gateway.get(name, ROOT, type="like")) == ["like"]
    assert titles(gateway.get(name, ROOT, unread="true")) == ["unread", "like"]
    assert titles(gateway.get(name, ROOT, unread="false")) == ["read"]
    assert titles(gateway.get(name, ROOT, unread="true", type="comment")) == ["unread"]
    assert titles(gateway.get(name, ROOT, type="")) == ["unread", "read", "like"]


def test_somebody_new_has_an_empty_inbox(gateway, name):
    assert gateway.get(name, ROOT).json() == {"notifications": [], "next": None}
    assert gateway.get(name, f"{ROOT}/unread-count").json() == {"count": 0}
    assert gateway.post(name, f"{ROOT}/read-all").json() == {"count": 0}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"before": "yesterday"}, "before"),
        ({"before": -1}, "before"),
        ({"before": 2**63}, "before"),
        ({"unread": "perhaps"}, "unread"),
        ({"type": "a\0b"}, "type"),
        ({"group": "5"}, "group"),
        ({"group": uuid4(), "before": "5"}, "before"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(gateway, name, query, field):
    answer = gateway.get(name, ROOT, **query)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert all(error["message"] for error in answer.json()["errors"])


def test_reading_counts_once(gateway, name, kind):
    item = gateway.inboxes.write(name, kind=kind).item
    gateway.inboxes.write(name, kind=kind)
    for _ in range(3):
        assert gateway.post(name, f"{ROOT}/{item.id}/read").json() == {"count": 1}
    assert gateway.get(name, f"{ROOT}/unread-count").json() == {"count": 1}
    assert gateway.inboxes.counted("read", kind) == 1
    assert gateway.inboxes.counted("clicked", kind) == 0
    assert gateway.inboxes.one("SELECT version FROM inboxes WHERE user_id = %s", name) == 3
    _, shown = gateway.get(name, ROOT).json()["notifications"]
    assert shown["read"] is True
    assert shown["readAt"]


def test_clicking_also_reads_and_counts_once(gateway, name, kind):
    item = gateway.inboxes.write(name, kind=kind).item
    for _ in range(2):
        assert gateway.post(name, f"{ROOT}/{item.id}/clicked").json() == {"count": 0}
    (shown,) = gateway.get(name, ROOT).json()["notifications"]
    assert shown["read"] is True
    assert shown["clickedAt"]
    assert (gateway.inboxes.counted("read", kind), gateway.inboxes.counted("clicked", kind)) == (1, 1)


def test_clicking_what_was_read_counts_the_click_only(gateway, name, kind):
    item = gateway.inboxes.write(name, kind=kind).item
    gateway.post(name, f"{ROOT}/{item.id}/read")
    assert gateway.post(name, f"{ROOT}/{item.id}/clicked").json() == {"count": 0}
    assert (gateway.inboxes.counted("read", kind), gateway.inboxes.counted("clicked", kind)) == (1, 1)


def test_archiving_takes_it_off_the_list_and_the_count(gateway, name, kind):
    item = gateway.inboxes.write(name, kind=kind).item
    gateway.inboxes.write(name, "stays", kind=kind)
    for _ in range(2):
        assert gateway.post(name, f"{ROOT}/{item.id}/archive").json() == {"count": 1}
    assert titles(gateway.get(name, ROOT)) == ["stays"]
    assert gateway.post(name, f"{ROOT}/{item.id}/read").json() == {"count": 1}
    assert gateway.inboxes.counted("read", kind) == 1


def test_archiving_what_was_read_leaves_the_count(gateway, name):
    item = gateway.inboxes.write(name).item
    gateway.inboxes.write(name)
    gateway.post(name, f"{ROOT}/{item.id}/read")
    assert gateway.post(name, f"{ROOT}/{item.id}/archive").json() == {"count": 1}


def test_read_all_reads_everything_once(gateway, name, kind):
    for _ in range(3):
        gateway.inboxes.write(name, kind=kind)
    gateway.inboxes.write(f"{name}-other", kind=kind)
    for _ in range(2):
        assert gateway.post(name, f"{ROOT}/read-all").json() == {"count": 0}
    assert gateway.get(name, ROOT, unread="true").json()["notifications"] == []
    assert gateway.inboxes.counted("read", kind) == 3
    assert gateway.inboxes.unread(f"{name}-other") == 1
    assert gateway.inboxes.one("SELECT version FROM inboxes WHERE user_id = %s", name) == 4


@pytest.fixture
def group(gateway, name, kind):
    """A group of four: two had rows of their own. And the ids of its members."""
    leading = [gateway.inboxes.write(name, f"leading {n}", kind=kind).item for n in range(2)]
    return gateway.inboxes.gather(name, leading, further=2)


def state_of(gateway, column, item):
    return gateway.inboxes.one(f"SELECT {column} FROM notifications WHERE id = %s", item.id)


def unread_members(gateway, group):
    return gateway.inboxes.one(
        "SELECT count(*) FROM notifications WHERE group_id = %s AND read_at IS NULL", group.id
    )


def is_closed(gateway, group):
    return gateway.inboxes.one("SELECT closed_at IS NOT NULL FROM notification_groups WHERE id = %s", group.id)


def test_a_group_is_one_row_and_lists_its_members(gateway, name, group):
    (row,) = gateway.get(name, ROOT).json()["notifications"]
    assert row["group"] == {"count": 4, "leading": [str(id_) for id_ in group.group.leading]}
    first = gateway.get(name, ROOT, group=group.id, limit=3)
    rest = gateway.get(name, ROOT, group=group.id, limit=3, before=first.json()["next"])
    assert sorted(titles(first) + titles(rest)) == ["leading 0", "leading 1", "member 0", "member 1"]
    ids = [item["id"] for item in first.json()["notifications"] + rest.json()["notifications"]]
    assert ids == sorted(ids, reverse=True)
    assert {item["seq"] for item in first.json()["notifications"]} == {group.seq}
    assert rest.json()["next"] is None


@pytest.mark.parametrize("verb", ["read", "clicked", "archive"])
def test_reading_a_group_reads_its_members_and_closes_it(gateway, name, kind, group, verb):
    gateway.inboxes.write(name, "other")
    assert gateway.inboxes.unread(name) == 2
    for _ in range(2):
        assert gateway.post(name, f"{ROOT}/{group.id}/{verb}").json() == {"count": 1}
    assert unread_members(gateway, group) == 0
    assert is_closed(gateway, group)
    assert gateway.inboxes.counted("read", kind) == 1


def test_read_all_reads_members_and_closes_groups(gateway, name, kind, group):
    assert gateway.post(name, f"{ROOT}/read-all").json() == {"count": 0}
    assert unread_members(gateway, group) == 0
    assert is_closed(gateway, group)
    assert gateway.inboxes.counted("read", kind) == 1


def test_reading_a_member_leaves_the_group_unread(gateway, name, group):
    member = gateway.get(name, ROOT, group=group.id).json()["notifications"][0]
    assert gateway.post(name, f"{ROOT}/{member['id']}/read").json() == {"count": 1}
    assert unread_members(gateway, group) == 3
    assert not is_closed(gateway, group)
    (read,) = gateway.get(name, ROOT, group=group.id, unread="false").json()["notifications"]
    assert read["id"] == member["id"]


def test_what_was_read_gathers_no_more(gateway, name):
    items = [gateway.inboxes.write(name).item for _ in range(2)]
    leading = [[str(item.id), 1] for item in items]
    windows = {"comment/": {"leading": leading, "group": None, "count": 0, "at": 1}}
    gateway.inboxes.database.execute("UPDATE inboxes SET windows = %s WHERE user_id = %s", (Jsonb(windows), name))
    gateway.post(name, f"{ROOT}/{items[0].id}/read")
    kept = gateway.inboxes.one("SELECT windows FROM inboxes WHERE user_id = %s", name)
    assert kept["comment/"]["leading"] == leading[1:]
    gateway.post(name, f"{ROOT}/read-all")
    assert gateway.inboxes.one("SELECT windows FROM inboxes WHERE user_id = %s", name) == {}


@pytest.mark.parametrize("verb", ["read", "clicked", "archive"])
def test_another_users_notification_looks_like_none_at_all(gateway, name, verb):
    theirs = gateway.inboxes.write(f"{name}-other").item
    gateway.inboxes.write(name)
    answers = [gateway.post(name, f"{ROOT}/{id_}/{verb}") for id_ in (theirs.id, uuid4(), "five", "%00")]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert state_of(gateway, "read_at", theirs) is None
    assert gateway.inboxes.unread(f"{name}-other") == 1


def test_another_users_group_looks_like_none_at_all(gateway, name, group):
    answers = [gateway.get(f"{name}-other", ROOT, group=id_) for id_ in (group.id, uuid4())]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].content == answers[1].content
    leading = group.group.leading[0]
    assert gateway.get(name, ROOT, group=leading).status_code == 404, "a member is no group"


def test_two_users_see_their_own(gateway, name):
    gateway.inboxes.write(name, "mine")
    gateway.inboxes.write(f"{name}-other", "theirs")
    assert titles(gateway.get(name, ROOT)) == ["mine"]
    assert titles(gateway.get(f"{name}-other", ROOT)) == ["theirs"]


def test_what_is_not_there_is_a_problem_document(gateway, name):
    for answer in (gateway.get(name, "/api/nothing"), gateway.post(name, ROOT), gateway.client.post("/dev/token")):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
        assert answer.status_code in (404, 405)


def test_health_says_what_is_so(gateway, eventually):
    assert gateway.client.get("/healthz").json() == {"status": "ok"}
    # Each check has 0.4 s, which a busy machine may need more than once.
    ready = eventually(lambda: (answer := gateway.client.get("/readyz")).status_code == 200 and answer, 30)
    assert set(ready.json()) == {"postgres", "redis", "migrations"}
    assert b"tocsin_gateway_connections" in gateway.client.get("/metrics").content


@pytest.mark.parametrize("path", ["/", "/notifications", "/static/page.js"])
def test_pages_run_no_foreign_and_no_inline_code(gateway, path):
    answer = gateway.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_files_outside_static_are_not_served(gateway):
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        assert gateway.client.get(path).status_code == 404
