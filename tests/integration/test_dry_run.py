"""A dry run says who would be told what, on which channel, when, and why not; and leaves everything as it was."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from psycopg_pool import ConnectionPool
from redis import Redis

from pipelines import accept
from pipelines.accept import Arrival
from pipelines.catalog import Catalog
from pipelines.stage import Resources
from schema.errors import InvalidEvent
from schema.wire import presence_key
from tests.integration.chain import CONTENT, Chain, Rows, Run
from tests.integration.limited import Load
from workers.dry_run import MOST, SHOWN, DryEvent, foresee

pytest_plugins = ["tests.integration.fleet"]

ON = "[channels]\nemail = true\npush = true\n"
KNOWN = """
WITH person AS (INSERT INTO users (id, email) VALUES ('ada', 'ada@example.org') RETURNING id),
inbox AS (INSERT INTO inboxes (user_id) SELECT id FROM person)
INSERT INTO devices (user_id, kind, address) SELECT id, 'fcm_token', 'token' FROM person
"""
OPT_OUT = "INSERT INTO opt_outs (user_id, channel, category) VALUES ('ada', 'email', %s)"
PREFER = """
INSERT INTO notification_preferences (user_id, scope, type, enabled, channels)
VALUES ('ada', 'type', 'comment', %s, %s)
"""
ALWAYS_QUIET = """
UPDATE users SET quiet_days = '{1,2,3,4,5,6,7}', quiet_from = '00:00', quiet_to = '00:00', time_zone = 'UTC'
"""
DAY = timedelta(days=1)
LIKE = {"userName": "Bob", "postTitle": "Tea", "postId": "p-1"}
Verdicts = dict[str, str]
"""By channel: what, and why."""


@pytest.fixture
def use(limited: Load, pool: ConnectionPool) -> Resources:
    return replace(limited(comment=ON, like=ON), pool=pool)


def read(use: Resources, *events: dict[str, Any]) -> list[Arrival]:
    usual = {"type": "comment", "recipients": ["ada"], "data": CONTENT}
    return [accept.read(msgspec.json.encode(usual | event), use.catalog) for event in events]


def told(use: Resources, *events: dict[str, Any]) -> list[DryEvent]:
    return foresee(read(use, *events), use)[1].events


def channels(event: DryEvent) -> Verdicts:
    (one,) = event.notifications
    return {c.channel: c.outcome + (f": {c.reason}" if c.reason else "") for c in one.channels}


SENT = {"web": "sent", "email": "sent", "push": "sent"}


@pytest.mark.parametrize(
    ("before", "event", "expected"),
    [
        pytest.param([], {}, SENT, id="all is on"),
        pytest.param(
            [],
            {"recipients": ["zoe"]},
            SENT | {"email": "closed: no_address", "push": "closed: no_device"},
            id="of whom nothing is known",
        ),
        pytest.param([(OPT_OUT, "")], {}, SENT | {"email": "closed: opted_out"}, id="unsubscribed"),
        pytest.param(
            [(PREFER, False, "{}")],
            {},
            dict.fromkeys(SENT, "closed: muted"),
            id="muted",
        ),
        pytest.param(
            [(PREFER, None, '{"push": false}')], {}, SENT | {"push": "closed: preference"}, id="switched off"
        ),
        pytest.param(
            [(PREFER, None, '{"push": false}')], {"importance": "critical"}, SENT, id="critical all the same"
        ),
        pytest.param(
            [("INSERT INTO suppressed_addresses (address, reason) VALUES ('ada@example.org', 'bounced')",)],
            {},
            SENT | {"email": "closed: address_suppressed: bounced"},
            id="an address that takes nothing",
        ),
        pytest.param(
            [(PREFER, None, '{"email": "digest daily", "push": "if unread after 15m"}')],
            {},
            SENT | {"email": "held: digest", "push": "held: unread"},
            id="later, as the user likes it",
        ),
        pytest.param(
            [(ALWAYS_QUIET,)],
            {},
            SENT | {"email": "held: quiet_hours", "push": "held: quiet_hours"},
            id="quiet hours",
        ),
        pytest.param([(ALWAYS_QUIET,)], {"importance": "critical"}, SENT, id="quiet hours, critical"),
        pytest.param(
            [],
            {"expires_at": "2020-01-01T00:00:00Z"},
            dict.fromkeys(SENT, "closed: expired"),
            id="no news any more",
        ),
        pytest.param(
            [(ALWAYS_QUIET,)],
            {"expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat()},
            SENT | {"email": "closed: expired", "push": "closed: expired"},
            id="no news any more when it is held so long",
        ),
    ],
)
def test_what_would_happen_on_each_channel(
    before: list[tuple[Any, ...]], event: dict[str, Any], expected: Verdicts, use: Resources, run: Run
) -> None:
    run(KNOWN)
    for statement, *values in before:
        run(statement, *values)
    (found,) = told(use, event)
    assert channels(found) == expected


def test_it_says_what_would_be_read_and_when(use: Resources, run: Run) -> None:
    run(KNOWN)
    (found,) = told(use, {"id": "e-1"})
    (one,) = found.notifications
    assert (found.id, found.type, found.status, found.recipients) == ("e-1", "comment", "accepted", 1)
    assert abs(found.due - datetime.now(UTC)) < timedelta(minutes=1)
    assert (one.user, one.title, one.error, one.group) == ("ada", "New comment from Bob", None, None)
    assert {c.at for c in one.channels} == {found.due}
    assert [c.addresses for c in one.channels] == [1, 1, 1]


def test_it_is_told_as_of_its_time(use: Resources, run: Run) -> None:
    run(KNOWN)
    run(PREFER, None, '{"email": "if unread after 15m"}')
    at = datetime.now(UTC).replace(microsecond=0) + DAY
    (found,) = told(use, {"send_at": at.isoformat()})
    assert found.due == at
    assert [c.at for c in found.notifications[0].channels] == [at, at + timedelta(minutes=15), at]


def test_what_is_held_longer_than_it_lives_is_not_sent(limited: Load, pool: ConnectionPool, run: Run) -> None:
    use = replace(limited(comment='time_to_live = "1h"\n[channels]\nemail = "digest 2h"\n'), pool=pool)
    run(KNOWN)
    (found,) = told(use, {})
    assert channels(found)["email"] == "closed: expired"


@pytest.mark.parametrize(("looks", "expected"), [(True, "closed: online"), (False, "sent")])
def test_a_push_for_who_is_absent(looks: bool, expected: str, use: Resources, run: Run, client: Redis) -> None:
    run(KNOWN)
    run(PREFER, None, '{"push": "if offline"}')
    if looks:
        client.set(presence_key("ada"), "here", ex=45)
    assert channels(told(use, {})[0])["push"] == expected
    later = (datetime.now(UTC) + DAY).isoformat()
    assert channels(told(use, {"send_at": later})[0])["push"] == "sent", "who looks now may not look then"


def test_the_web_is_silent_in_quiet_hours(use: Resources, run: Run) -> None:
    run(KNOWN)
    run(ALWAYS_QUIET)
    web = told(use, {})[0].notifications[0].channels[0]
    assert (web.channel, web.outcome, web.silent) == ("web", "sent", True)


def test_the_limits_hold_within_a_call_and_for_what_was_sent_before(
    limited: Load, pool: ConnectionPool, chain: Chain
) -> None:
    use = replace(limited(comment='[rate_limit]\nmax = 3\nper = "1h"\n'), pool=pool)
    Chain(use).route({"id": "before"})
    for _ in range(2):
        assert [channels(event)["web"] for event in told(use, {}, {}, {})] == [
            "sent",
            "sent",
            "closed: rate_limit",
        ]


def test_the_group_that_it_would_join(use: Resources) -> None:
    Chain(use).route({"id": "before", "group_key": "p"})
    first, second = told(use, {"group_key": "p"}, {"group_key": "q"})
    assert first.notifications[0].group
    assert first.notifications[0].group.count == 2
    assert first.notifications[0].group.title
    assert second.notifications[0].group is None


def test_a_template_that_fails(use: Resources, tmp_path: Path) -> None:
    (folder,) = tmp_path.glob("templates-*")
    (folder / "comment" / "title.txt.j2").write_text("{% if recipient == 'zoe' %}{{ data.gone }}{% endif %}Hi")
    (found,) = told(replace(use, catalog=Catalog.load(folder)), {"recipients": ["bob", "zoe"]})
    fine, broken = found.notifications
    assert (fine.title, fine.error) == ("Hi", None)
    assert (broken.title, broken.channels[0].reason) == (None, "unrenderable")
    assert broken.error
    assert "title.txt.j2:1" in broken.error


def test_each_recipient_and_each_once(use: Resources) -> None:
    (found,) = told(use, {"recipients": ["ada", "bob", "ada"]})
    assert [one.user for one in found.notifications] == ["ada", "bob"]
    assert found.recipients == 2


def test_a_duplicate_does_nothing(use: Resources) -> None:
    Chain(use).accept({"id": "e-1"})
    again, new, twice = told(use, {"id": "e-1"}, {"id": "e-2"}, {"id": "e-2"})
    assert [event.status for event in (again, new, twice)] == ["duplicate", "accepted", "duplicate"]
    assert [len(event.notifications) for event in (again, new, twice)] == [0, 1, 0]


def test_a_clash_is_said(use: Resources) -> None:
    Chain(use).accept({"id": "e-1"})
    verdict, found = foresee(read(use, {"id": "e-0"}, {"id": "e-1", "recipients": ["bob"]}), use)
    assert (verdict.conflicts, found.events) == ([1], [])


def test_an_audience_is_counted_and_its_first_are_told_of(use: Resources, run: Run) -> None:
    run("INSERT INTO users (id) SELECT 'u-' || lpad(n::text, 3, '0') FROM generate_series(1, 150) n")
    (found,) = told(use, {"recipients": {"all": True}, "actor": "u-001"})
    assert found.recipients == 149
    assert [one.user for one in found.notifications] == [f"u-{n:03}" for n in range(2, SHOWN + 2)]


def test_too_many_recipients_are_refused(use: Resources) -> None:
    crowd = [f"u-{n}" for n in range(MOST)]
    with pytest.raises(InvalidEvent, match=r"recipients: are 1,001; a dry run tells of 1,000 in one call"):
        told(use, {"recipients": crowd}, {"recipients": ["ada"]})


def everything_in(client: Redis) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.keys("*") if b":alive:" not in key}  # type: ignore[misc, union-attr]


def test_it_leaves_every_row_and_every_key_as_it_was(
    limited: Load, pool: ConnectionPool, client: Redis, run: Run, dump: Callable[[], dict[str, list[str]]]
) -> None:
    limit = f'{ON}[rate_limit]\nmax = 3\nper = "1h"\noverflow = "fold"\nchannels.email = {{max = 1, per = "1h"}}\n'
    use = replace(limited(comment=limit, like=ON, user='[user]\nmax = 5\nper = "1h"\n'), pool=pool)
    run(KNOWN)
    run(PREFER, None, '{"email": "digest daily", "push": "if offline"}')
    Chain(use).route({"id": "before"}, {"type": "like", "recipients": ["bob"], "data": LIKE})
    rows, keys = dump(), everything_in(client)
    assert "tocsin:limit:comment:ada" in {key.decode() for key in keys}
    crowd = ["ada", "bob", "nobody"]
    found = told(
        use,
        *({"recipients": crowd} for _ in range(6)),
        {"type": "like", "recipients": crowd, "data": LIKE, "send_at": "2030-01-01T00:00:00Z"},
        {"recipients": {"all": True}},
        {"id": "before"},
    )
    assert len({channels(event)["web"] for event in found if len(event.notifications) == 1}) <= 1
    assert (dump(), everything_in(client)) == (rows, keys)


def test_it_says_what_then_really_happens(
    limited: Load, pool: ConnectionPool, run: Run, rows: Rows, client: Redis
) -> None:
    """A crowd of wishes and limits, first dry and then for real: the same is closed for the same reasons, the same
    is held, the rest is sent."""
    limit = f'{ON}[rate_limit]\nmax = 3\nper = "1h"\noverflow = "fold"\nchannels.push = {{max = 2, per = "1h"}}\n'
    use = replace(limited(comment=limit, like=ON, user='[user]\nmax = 5\nper = "1h"\n'), pool=pool)
    run(KNOWN)
    run("INSERT INTO users (id, email) SELECT id, id || '@example.org' FROM unnest('{bob,cleo}'::text[]) AS id")
    run("INSERT INTO inboxes (user_id) SELECT unnest('{bob,cleo}'::text[])")
    run(PREFER, None, '{"email": "digest 1h"}')
    run(PREFER.replace("ada", "bob"), None, '{"email": "if unread after 15m", "web": false}')
    run(OPT_OUT.replace("ada", "cleo"), "social")
    crowd = ["ada", "bob", "cleo"]
    events = [
        {"id": f"e-{n}", "recipients": crowd}
        | ({"type": "like", "data": LIKE} if n % 3 == 2 else {})
        | ({"importance": "critical"} if n % 4 == 3 else {})
        for n in range(8)
    ]
    dry = {(event.id, one.user): one for event in told(use, *events) for one in event.notifications}
    Chain(use).route(*events)
    written = rows("SELECT id, event_id, user_id, title, closed FROM notifications WHERE event_id IS NOT NULL")
    sent = rows("SELECT notification_id, channel, state, reason, device_id FROM deliveries")
    assert len(written) == len(dry) == 24
    for row in written:
        one = dry[row["event_id"], row["user_id"]]
        assert one.title == row["title"]
        assert {c.channel: c.reason for c in one.channels if c.outcome == "closed"} == row["closed"]
        mine = {
            "push" if d["device_id"] else d["channel"]: (d["state"], d["reason"])
            for d in sent
            if d["notification_id"] == row["id"]
        }
        states = {"sent": "pending", "held": "held"}
        assert {c.channel: (states[c.outcome], c.reason) for c in one.channels if c.outcome != "closed"} == mine
    reasons = {reason for row in written for reason in row["closed"].values()}
    assert reasons >= {"rate_limit", "opted_out", "preference", "no_device"}


EVENT = {"type": "comment", "recipients": ["ada"], "data": CONTENT}


def ask(api: Any, body: Any, query: str = "?dry_run=true") -> Any:
    return api.client.post(f"/v1/events{query}", json=body)


def test_over_http_it_is_answered_and_not_stored(api: Any, name: str) -> None:
    rows = api.rows()
    answer = ask(api, [EVENT | {"id": name}, EVENT])
    assert answer.status_code == 200
    first, second = answer.json()["events"]
    assert (first["id"], first["status"], first["recipients"]) == (name, "accepted", 1)
    (one,) = second["notifications"]
    assert one["user"] == "ada"
    assert one["title"] == "New comment from Bob"
    assert [channel["channel"] for channel in one["channels"]] == ["web", "email", "push"]
    assert (one["channels"][0]["outcome"], one["channels"][1]["reason"]) == ("sent", "type_default")
    assert api.rows() == rows
    assert api.stored(name) == 0
    quota = api.client.get("/v1/users/ada/quota").json()["limits"]
    assert all(limit["used"] == 0 for limit in quota)


@pytest.mark.parametrize(
    ("body", "query", "status", "field"),
    [
        (EVENT | {"type": "coment"}, "?dry_run=true", 422, "type"),
        ([EVENT, EVENT | {"recipients": []}], "?dry_run=true", 422, "events[1].recipients"),
        ([EVENT | {"recipients": [f"u-{n}" for n in range(600)]}] * 2, "?dry_run=true", 422, "recipients"),
        (EVENT, "?dry_run=perhaps", 422, "dry_run"),
    ],
)
def test_errors_are_as_for_real(api: Any, body: Any, query: str, status: int, field: str) -> None:
    rows = api.rows()
    answer = ask(api, body, query)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["field"] == field
    assert "nothing was stored" in answer.json()["detail"]
    assert api.rows() == rows


def test_a_clash_and_a_duplicate_over_http(api: Any, name: str) -> None:
    assert ask(api, EVENT | {"id": name}, "").status_code == 202
    assert ask(api, EVENT | {"id": name}).json()["events"][0]["status"] == "duplicate"
    clash = ask(api, EVENT | {"id": name, "recipients": ["bob"]})
    assert clash.status_code == 409
    assert clash.json()["errors"][0]["field"] == "id"


def test_false_is_for_real(api: Any, name: str) -> None:
    assert ask(api, EVENT | {"id": name}, "?dry_run=false").status_code == 202
    assert api.stored(name) == 1


def test_it_needs_a_key(api: Any) -> None:
    answer = api.client.post("/v1/events?dry_run=true", json=EVENT, headers={"authorization": "Bearer wrong"})
    assert answer.status_code == 401
