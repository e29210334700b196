"""fan_out on a real database: what it writes, once, in order, for any number of batches at the same time."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest

from pipelines.catalog import Catalog
from pipelines.fan_out import fan_out
from pipelines.windows import forget
from schema.notification import Notification
from tests.integration.chain import CONTENT, TEMPLATES, Chain, Rows, Run, at_once

Dump = Callable[[], dict[str, list[str]]]

HOUR_AGO = "UPDATE events SET accepted_at = accepted_at - interval '1 hour 1 s' WHERE id = ANY(%s)"
SHOWN = """
SELECT * FROM notifications WHERE user_id = 'ada' AND seq IS NOT NULL AND group_id IS NULL ORDER BY seq
"""


def read(chain: Chain, user: str, ids: list[UUID]) -> None:
    """What reading rows does to the windows."""
    with chain.use.pool.connection() as connection:
        (windows,) = connection.execute("SELECT windows FROM inboxes WHERE user_id = %s", (user,)).fetchone() or ()
        connection.execute(
            "UPDATE inboxes SET windows = %s::jsonb WHERE user_id = %s",
            (msgspec.json.encode(forget(windows, ids)).decode(), user),
        )
        connection.execute("UPDATE notification_groups SET closed_at = now() WHERE id = ANY(%s)", (ids,))


def time_passes(chain: Chain, **delta: float) -> None:
    """As if all that gathers in ada's windows had come so much earlier."""
    milliseconds = timedelta(**delta) // timedelta(milliseconds=1)
    with chain.use.pool.connection() as connection:
        (windows,) = connection.execute("SELECT windows FROM inboxes WHERE user_id = 'ada'").fetchone() or ()
        for window in windows.values():
            window["at"] -= milliseconds
            window["leading"] = [[id_, at - milliseconds, *who] for id_, at, *who in window["leading"]]
        connection.execute(
            "UPDATE inboxes SET windows = %s::jsonb WHERE user_id = 'ada'",
            (msgspec.json.encode(windows).decode(),),
        )


def test_one_event_for_someone_unknown(chain: Chain, rows: Rows) -> None:
    (delivery,) = chain.route({"id": "c-1", "actor": "bob", "group_key": "post-1"})["web"]
    (told,) = rows("SELECT * FROM notifications")
    assert (told["event_id"], told["user_id"], told["seq"], told["type"]) == ("c-1", "ada", 1, "comment")
    assert (told["category"], told["importance"], told["actor"]) == ("social", "normal", "bob")
    assert (told["title"], told["message"]) == ("New comment from Bob", "Hi")
    assert told["action_url"] == "/posts/1#comment-c"
    assert told["data"] == CONTENT
    assert told["closed"] == {"email": "type_default", "push": "type_default"}
    assert (told["error"], told["group_id"], told["read_at"]) == (None, None, None)
    (sent,) = rows("SELECT * FROM deliveries")
    assert (sent["id"], sent["notification_id"], sent["user_id"]) == (delivery, told["id"], "ada")
    assert (sent["channel"], sent["state"], sent["attempt"]) == ("web", "pending", 0)
    (inbox,) = rows("SELECT user_id, seq, unread, version FROM inboxes")
    assert inbox == {"user_id": "ada", "seq": 1, "unread": 1, "version": 1}
    assert rows("SELECT id FROM users") == [{"id": "ada"}]
    (event,) = rows("SELECT accepted_at, routed_count FROM events")
    assert event["routed_count"] == 1
    assert abs((told["created_at"] - event["accepted_at"]).total_seconds()) < 0.001


def test_what_is_closed_is_recorded_and_not_shown(chain: Chain, run: Run, rows: Rows) -> None:
    run("INSERT INTO users (id) VALUES ('ada')")
    run("INSERT INTO notification_preferences (user_id, type, enabled) VALUES ('ada', 'comment', false)")
    assert chain.route({}) == {}
    (told,) = rows("SELECT seq, closed, title FROM notifications")
    assert told["closed"] == {"web": "muted", "email": "muted", "push": "muted"}
    assert told["seq"] is None
    assert rows("SELECT * FROM deliveries") == []
    assert rows("SELECT seq, unread FROM inboxes") == [{"seq": 0, "unread": 0}]
    assert rows("SELECT routed_count FROM events") == [{"routed_count": 1}]


def test_what_expired_meanwhile_goes_nowhere(chain: Chain, run: Run, rows: Rows) -> None:
    batch = chain.ready({"id": "old", "expires_at": "2100-01-01T00:00:00Z"}, {"id": "new"})
    run("UPDATE events SET expires_at = now() WHERE id = 'old'")
    assert len(fan_out(batch, chain.use)["web"]) == 1
    told = {row["event_id"]: row for row in rows("SELECT * FROM notifications")}
    assert told["old"]["closed"]["web"] == "expired"
    assert (told["old"]["seq"], told["new"]["seq"]) == (None, 1)


def test_a_template_that_fails_stops_its_own_notification_only(chain: Chain, rows: Rows, tmp_path: Path) -> None:
    broken = tmp_path / "templates"
    shutil.copytree(TEMPLATES, broken)
    (broken / "comment" / "message.txt.j2").write_text("Hello\n{{ 10 // data.comment | length }}\n")
    use = replace(chain.use, catalog=Catalog.load(broken))
    batch = chain.ready({"id": "1"}, {"id": "2", "recipients": ["bob", "cleo"]}, {"id": "3"})
    with chain.use.pool.connection() as connection:
        connection.execute("""UPDATE events SET data = data || '{"comment": ""}' WHERE id = '2'""")
    assert len(fan_out(batch, use)["web"]) == 2
    told = rows("SELECT event_id, error, title, seq FROM notifications ORDER BY event_id, user_id")
    assert [row["event_id"] for row in told if row["error"] is None] == ["1", "3"]
    for row in told[1:3]:
        assert row["error"].startswith("templates/comment/message.txt.j2:2: ZeroDivisionError")
        assert (row["title"], row["seq"]) == (None, None)
    states = rows("SELECT state, reason, count(*) AS count FROM deliveries GROUP BY 1, 2 ORDER BY 1")
    assert states == [
        {"state": "failed", "reason": "unrenderable", "count": 2},
        {"state": "pending", "reason": None, "count": 2},
    ]
    assert rows("SELECT sum(routed_count) AS routed FROM events") == [{"routed": 4}]


def test_a_type_that_is_gone_stops_its_own_notification_only(chain: Chain, rows: Rows, tmp_path: Path) -> None:
    """While the fleet is being updated, fan_out may run with fewer types than the stages before it."""
    fewer = tmp_path / "templates"
    shutil.copytree(TEMPLATES, fewer, ignore=shutil.ignore_patterns("like"))
    batch = chain.ready({"id": "1"}, {"id": "2", "type": "like", "data": sample(chain, "like")})
    assert len(fan_out(batch, replace(chain.use, catalog=Catalog.load(fewer)))["web"]) == 1
    told = {row["event_id"]: row for row in rows("SELECT * FROM notifications")}
    assert told["1"]["seq"] == 1
    assert told["2"]["seq"] is None
    assert told["2"]["closed"]["web"] == "unknown_type"


def test_an_event_that_was_erased_is_left_out(chain: Chain, run: Run, rows: Rows) -> None:
    batch = chain.ready({"id": "1"}, {"id": "2"})
    run("DELETE FROM events WHERE id = '1'")
    assert len(fan_out(batch, chain.use)["web"]) == 1
    run("DELETE FROM events")
    assert fan_out(batch, chain.use) == {}


def test_an_event_that_is_erased_meanwhile_leaves_its_notification(
    chain: Chain, database_url: str, run: Run, rows: Rows, eventually: Callable[..., object]
) -> None:
    """Read already and then gone: what was rendered is told, and no delivery is left without its notification."""
    chain.route({"id": "1"})
    batch, written = chain.ready({"id": "2"}), list[dict[str, list[UUID]]]()
    late = threading.Thread(target=lambda: written.append(fan_out(batch, chain.use)))
    with psycopg.connect(database_url, autocommit=True) as other, other.transaction():
        other.execute("SELECT FROM inboxes FOR UPDATE")
        late.start()
        eventually(lambda: rows("SELECT FROM pg_locks WHERE NOT granted"))
        run("DELETE FROM events WHERE id = '2'")
    late.join()
    (told,) = rows("SELECT * FROM notifications WHERE event_id = '2'")
    assert (told["title"], told["data"], told["seq"]) == ("New comment from Bob", {}, 2)
    (delivery,) = written[0]["web"]
    assert rows("SELECT notification_id FROM deliveries WHERE id = %s", delivery) == [
        {"notification_id": told["id"]}
    ]


def test_a_batch_that_comes_again_changes_nothing(chain: Chain, dump: Dump) -> None:
    """Not even by rewriting a row with the same values; also within one batch, and in another order."""
    batch = chain.ready(
        *({"id": f"c-{number}", "recipients": ["ada", "bob", f"u-{number}"]} for number in range(5))
    )
    assert len(fan_out([*batch, *batch], chain.use)["web"]) == 15
    before = dump()
    assert fan_out(batch, chain.use) == {}
    assert fan_out(batch[::-1], chain.use) == {}
    assert dump() == before


def test_a_batch_that_overlaps_writes_what_is_new(chain: Chain, rows: Rows) -> None:
    batch = chain.ready(*({"id": f"c-{number}"} for number in range(2)))
    fan_out(batch[:1], chain.use)
    assert len(fan_out(batch, chain.use)["web"]) == 1
    assert rows("SELECT seq, unread FROM inboxes") == [{"seq": 2, "unread": 2}]
    assert rows("SELECT id, routed_count FROM events WHERE routed_count <> 1") == []


def test_the_same_batch_in_eight_threads_is_written_once(chain: Chain, rows: Rows) -> None:
    batch = chain.ready(*({"recipients": [f"u-{number % 20}", f"v-{number}"]} for number in range(40)))
    written = at_once(8, lambda _: fan_out(batch, chain.use))
    assert sorted(len(found.get("web", [])) for found in written) == [0] * 7 + [80]
    assert rows("SELECT count(*) AS n FROM notifications WHERE event_id IS NOT NULL") == [{"n": 80}]
    assert rows("SELECT sum(routed_count) AS n FROM events") == [{"n": 80}]


def test_seq_is_the_order_of_commits_without_a_gap(chain: Chain, rows: Rows, run: Run) -> None:
    """Whoever reads an inbox up to a seq has seen all before it: no lower one appears later."""
    batches = [
        chain.ready(
            *(
                {
                    "type": "payment",
                    "data": sample(chain, "payment"),
                    "importance": "critical",
                    "recipients": ["ada", f"u-{n}"],
                }
                for _ in range(5)
            )
        )
        for n in range(20)
    ]
    ungrouped = [[msgspec.structs.replace(n, window=None) for n in batch] for batch in batches]
    seen: list[list[int]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append([row["seq"] for row in rows(SHOWN)])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        at_once(20, lambda number: fan_out(ungrouped[number], chain.use))
    finally:
        done.set()
        watcher.join()
    for seqs in seen:
        assert seqs == list(range(1, len(seqs) + 1))
    assert [row["seq"] for row in rows(SHOWN)] == list(range(1, 101))
    (inbox,) = rows("SELECT seq, unread FROM inboxes WHERE user_id = 'ada'")
    assert inbox == {"seq": 100, "unread": 100}


def sample(chain: Chain, name: str) -> dict[str, Any]:
    return chain.use.catalog.samples[name]


def test_batches_for_the_same_new_people_at_once(chain: Chain, rows: Rows) -> None:
    """Nobody knows them yet, and every batch names them in another order."""
    people = [f"u-{number:02}" for number in range(30)]
    batches = [
        chain.ready(*({"recipients": people[shift:] + people[: shift - 7]} for _ in range(2)))
        for shift in range(7, 19)
    ]
    at_once(12, lambda number: fan_out(batches[number], chain.use))
    assert rows("SELECT count(*) AS n FROM users") == [{"n": 30}]
    assert rows("SELECT id FROM events WHERE routed_count <> recipient_count") == []


def test_the_third_of_a_type_becomes_a_group(chain: Chain, rows: Rows) -> None:
    for number in (1, 2):
        chain.route({"id": f"c-{number}", "group_key": "post-9"})
    (delivery,) = chain.route({"id": "c-3", "group_key": "post-9"})["web"]
    (shown,) = rows(SHOWN)
    assert (shown["group_count"], shown["title"], shown["seq"], shown["event_id"]) == (
        3,
        "Bob commented 3 times on your post",
        3,
        None,
    )
    members = rows("SELECT id, event_id FROM notifications WHERE group_id = %s ORDER BY id", shown["id"])
    assert {member["event_id"] for member in members} == {"c-1", "c-2", "c-3"}
    by_event = {member["event_id"]: member["id"] for member in members}
    assert shown["leading"] == [by_event["c-1"], by_event["c-2"]]
    (group,) = rows("SELECT * FROM notification_groups")
    assert (group["id"], group["user_id"], group["type"]) == (shown["id"], "ada", "comment")
    assert (group["group_key"], group["count"], group["closed_at"]) == ("post-9", 3, None)
    assert group["last_notification_id"] == by_event["c-3"]
    assert rows("SELECT seq, unread FROM inboxes") == [{"seq": 3, "unread": 1}]
    assert rows("SELECT count(*) AS n FROM deliveries WHERE id = %s", delivery) == [{"n": 1}]


def test_a_group_grows_in_place(chain: Chain, rows: Rows) -> None:
    for number in range(5):
        chain.route({"id": f"c-{number}"})
    (shown,) = rows(SHOWN)
    assert (shown["group_count"], shown["title"], shown["seq"]) == (5, "Bob commented 5 times on your posts", 5)
    (group,) = rows("SELECT * FROM notification_groups")
    (last,) = rows("SELECT id FROM notifications WHERE event_id = 'c-4'")
    assert (group["count"], group["last_notification_id"]) == (5, last["id"])
    assert rows("SELECT unread FROM inboxes") == [{"unread": 1}]


def test_a_group_that_forms_within_one_batch(chain: Chain, rows: Rows) -> None:
    chain.route(*({"id": f"c-{number}"} for number in range(7)))
    (shown,) = rows(SHOWN)
    assert (shown["group_count"], shown["title"]) == (7, "Bob commented 7 times on your posts")
    assert rows("SELECT count(*) AS n FROM notifications WHERE group_id = %s", shown["id"]) == [{"n": 7}]
    (inbox,) = rows("SELECT seq, unread FROM inboxes")
    assert (inbox["seq"], inbox["unread"]) == (shown["seq"], 1)


def test_groups_of_one_user_keep_apart(chain: Chain, rows: Rows) -> None:
    like = {"type": "like", "data": sample(chain, "like")}
    chain.route(*({"group_key": key} | kind for key in ("a", "b") for kind in ({}, like) for _ in range(3)))
    found = rows("SELECT type, group_key, count FROM notification_groups ORDER BY 1, 2")
    assert [(row["type"], row["group_key"], row["count"]) for row in found] == [
        ("comment", "a", 3),
        ("comment", "b", 3),
        ("like", "a", 3),
        ("like", "b", 3),
    ]
    assert rows("SELECT unread FROM inboxes") == [{"unread": 4}]


def test_a_key_with_slashes_and_wildcards_is_only_a_key(chain: Chain, rows: Rows) -> None:
    key = "a/b/%s{}\u2028'\""
    chain.route(*({"group_key": key} for _ in range(3)))
    assert rows("SELECT group_key FROM notification_groups") == [{"group_key": key}]


def test_a_group_that_was_read_closes_and_a_new_one_begins(chain: Chain, rows: Rows) -> None:
    chain.route(*({} for _ in range(3)))
    (first,) = rows(SHOWN)
    read(chain, "ada", [first["id"]])
    chain.route({}, {})
    assert len(rows(SHOWN)) == 3
    chain.route({})
    groups = rows("SELECT id, count, closed_at IS NULL AS open FROM notification_groups ORDER BY created_at")
    assert [(group["count"], group["open"]) for group in groups] == [(3, False), (3, True)]
    assert [row["group_count"] for row in rows(SHOWN)] == [3, 3]


def test_a_group_whose_window_ended_closes_and_a_new_one_begins(chain: Chain, rows: Rows) -> None:
    chain.route(*({"id": f"old-{number}"} for number in range(3)))
    time_passes(chain, hours=1)
    chain.route(*({"id": f"new-{number}"} for number in range(3)))
    groups = rows("SELECT count, closed_at IS NULL AS open FROM notification_groups ORDER BY created_at, id")
    assert [(group["count"], group["open"]) for group in groups] == [(3, False), (3, True)]


def test_a_group_takes_more_until_an_hour_after_its_last(chain: Chain, rows: Rows) -> None:
    chain.route(*({} for _ in range(3)))
    for _ in range(2):
        time_passes(chain, minutes=59)
        chain.route({})
    assert rows("SELECT count, closed_at FROM notification_groups") == [{"count": 5, "closed_at": None}]


def test_events_of_several_hours_in_one_batch(chain: Chain, run: Run, rows: Rows) -> None:
    """After an outage one batch may hold events of several hours: they are told now, so they gather now."""
    accepted = chain.accept(*({"id": f"old-{number}"} for number in range(3)))
    run(HOUR_AGO, [event.id for event in accepted])
    chain.accept(*({"id": f"new-{number}"} for number in range(3)))
    fan_out([*again(chain, rows, "old"), *again(chain, rows, "new")], chain.use)
    assert rows("SELECT count, closed_at FROM notification_groups") == [{"count": 6, "closed_at": None}]
    assert rows("SELECT unread FROM inboxes") == [{"unread": 1}]


def again(chain: Chain, rows: Rows, prefix: str) -> list[Notification]:
    """The batch of events as they stand in the table now."""
    from pipelines.accept import Accepted, address

    columns = "id, type, recipients, importance, group_key, accepted_at"
    found = rows(f"SELECT {columns} FROM events WHERE starts_with(id, %s) ORDER BY id", prefix)
    return chain.narrow([n for row in found for n in address(Accepted(**row), chain.use.catalog)])


def test_reminders_sent_a_day_apart_are_not_a_group(chain: Chain, rows: Rows) -> None:
    """Accepted together, shown each at its own time: not three within the hour."""
    chain.accept(*({"id": f"r-{number}", "send_at": "2100-01-01T00:00:00Z"} for number in range(3)))
    for number in range(3):
        fan_out(again(chain, rows, f"r-{number}"), chain.use)
        time_passes(chain, days=1)
    assert rows("SELECT * FROM notification_groups") == []
    assert len(rows(SHOWN)) == 3


def test_a_reminder_accepted_long_ago_does_not_end_the_window(chain: Chain, run: Run, rows: Rows) -> None:
    chain.accept({"id": "old"})
    run(HOUR_AGO, ["old"])
    chain.route({}, {})
    fan_out(again(chain, rows, "old"), chain.use)
    chain.route({})
    assert rows("SELECT count, closed_at FROM notification_groups") == [{"count": 4, "closed_at": None}]


@pytest.mark.parametrize(("before", "after"), [(5, 3), (2, 3)])
def test_a_threshold_that_was_changed_keeps_the_count_of_unread(
    before: int, after: int, chain: Chain, rows: Rows, tmp_path: Path
) -> None:
    folder = tmp_path / "templates"
    shutil.copytree(TEMPLATES, folder)
    file = folder / "comment" / "type.toml"
    was = file.read_text()
    for threshold in (before, after):
        file.write_text(was.replace("threshold = 3", f"threshold = {threshold}"))
        changed = Chain(replace(chain.use, catalog=Catalog.load(folder)))
        for _ in range(max(2, before - 1)):
            changed.route({})
    (inbox,) = rows("SELECT unread FROM inboxes")
    assert inbox["unread"] == len(rows(SHOWN))


def test_five_hundred_in_fifty_threads_make_one_group(chain: Chain, rows: Rows) -> None:
    """Any number of producers: no count is lost, and never a second group is open."""
    batches = [chain.address(*({"importance": "critical"} for _ in range(10))) for _ in range(50)]
    at_once(50, lambda number: fan_out(chain.narrow(batches[number]), chain.use))
    (shown,) = rows(SHOWN)
    (group,) = rows("SELECT * FROM notification_groups")
    assert (group["count"], group["closed_at"]) == (500, None)
    assert (shown["id"], shown["group_count"]) == (group["id"], 500)
    members = rows("SELECT id FROM notifications WHERE group_id = %s", group["id"])
    assert len(members) == 500
    assert group["last_notification_id"] in {member["id"] for member in members}
    (inbox,) = rows("SELECT seq, unread FROM inboxes")
    assert (inbox["seq"], inbox["unread"]) == (shown["seq"], 1)
    assert rows("SELECT count(*) AS n FROM deliveries WHERE state = 'pending'") == [{"n": 500}]


def test_ten_an_hour_and_the_eleventh_is_recorded(chain: Chain, rows: Rows) -> None:
    for _ in range(12):
        chain.route({})
    (shown,) = rows(SHOWN)
    assert shown["group_count"] == 10
    over = rows("SELECT closed, seq FROM notifications WHERE closed->>'web' = 'rate_limit'")
    assert [row["seq"] for row in over] == [None, None]
    assert rows("SELECT count(*) AS n FROM deliveries") == [{"n": 10}]
