"""Groups from their producers to the mailbox: keys out of data, wording, rationed interruptions, what is folded;
and the race, in full size with GROUP_EVENTS=100."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import msgspec
import pytest

from pipelines.catalog import Catalog
from pipelines.stage import Resources
from schema.delivery import Outcome, Parcel, Sent
from schema.identity import group_id
from schema.wire import Publication, presence_key, user_channel
from tests.integration.chain import CONTENT, TEMPLATES, Chain, Process, Rows, Run, at_once
from workers.circuit import Circuit

Kind = Callable[..., Chain]
PRODUCERS = 50
EVENTS = int(os.environ.get("GROUP_EVENTS", "10"))
"""Of each producer."""
SHOWN = """
SELECT id, title, message, action_url, group_count AS count, silent, seq FROM notifications
WHERE user_id = 'ada' AND seq IS NOT NULL AND group_id IS NULL ORDER BY seq
"""
SENT = "SELECT channel, count(*)::int AS n FROM deliveries GROUP BY 1 ORDER BY 1"
WINDOWS = "SELECT windows FROM inboxes WHERE user_id = 'ada'"
ALL_ON = """
INSERT INTO notification_preferences (user_id, type, channels)
VALUES ('ada', 'comment', '{"email": true, "push": true}')
"""


@pytest.fixture
def use(pool: Any, client: Any, catalog: Any) -> Resources:
    return Resources(pool, client, catalog, frozenset({"web", "email", "push", "fcm", "webpush"}))


@pytest.fixture
def kind(chain: Chain, tmp_path: Path, run: Run) -> Kind:
    """kind('key = "…"', title="…"): a chain whose comments gather so, without a limit, and whose groups say so;
    for ada, who has a mailbox and a phone and wants everything."""
    run("INSERT INTO users (id, email) VALUES ('ada', 'ada@example.com')")
    run("INSERT INTO devices (user_id, kind, address) VALUES ('ada', 'fcm_token', 'token')")
    run(ALL_ON)

    def made(grouping: str = "", limit: str = "", **words: str) -> Chain:
        folder = tmp_path / "templates"
        shutil.copytree(TEMPLATES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("like", "follow"))
        file = folder / "comment" / "type.toml"
        head = file.read_text().partition("[rate_limit]")[0]
        file.write_text(
            f'{head}{limit}\n[grouping]\nthreshold = 3\nwindow = "1h"\nactor = "userName"\n{grouping}\n'
        )
        for part, text in words.items():
            (folder / "comment" / f"group.{part}.txt.j2").write_text(text)
        return Chain(replace(chain.use, catalog=Catalog.load(folder)))

    return made


def comment(name: str = "Bob", **facts: Any) -> dict[str, Any]:
    """An event: `name` comments. What begins with a capital letter goes beside the data."""
    return {"data": CONTENT | {"userName": name} | facts}


def closed(rows: Rows) -> list[dict[str, str]]:
    """Of each notification, in the order in which they came."""
    found = rows("SELECT closed FROM notifications WHERE event_id IS NOT NULL ORDER BY event_id")
    return [row["closed"] for row in found]


def minutes_pass(run: Run, rows: Rows, minutes: int) -> None:
    """As if all of ada's windows had moved so much earlier."""
    import msgspec

    ((windows),) = (row["windows"] for row in rows(WINDOWS))
    for window in windows.values():
        for name in {"at", "since"} & window.keys():
            window[name] -= minutes * 60_000
        window["leading"] = [[id_, at - minutes * 60_000, *who] for id_, at, *who in window["leading"]]
        window["told"] = {name: at - minutes * 60_000 for name, at in window.get("told", {}).items()}
    run("UPDATE inboxes SET windows = %s::jsonb WHERE user_id = 'ada'", msgspec.json.encode(windows).decode())


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["Bob", "Eve", "Kim"], "Kim and 2 others commented on your posts"),
        (["Bob", "Eve", "Bob"], "Bob and 1 other commented on your posts"),
        (["Bob", "Bob", "Bob"], "Bob commented 3 times on your posts"),
        (["Bob", "Eve", "Kim", "Lin", "Eve"], "Eve and 3 others commented on your posts"),
    ],
)
def test_a_group_says_who_and_how_many(chain: Chain, rows: Rows, names: list[str], title: str) -> None:
    """Whether its members come one by one or at once."""
    for name in names:
        chain.route({"recipients": ["ada"]} | comment(name, comment=f"by {name}"))
    chain.route(*({"recipients": ["eve"]} | comment(name, comment=f"by {name}") for name in names))
    found = rows("SELECT title, message, action_url FROM notifications WHERE group_count IS NOT NULL")
    says = {"title": title, "message": f"{names[-1]}: by {names[-1]}", "action_url": "/notifications?type=comment"}
    assert found == [says, says]


def test_a_group_of_one_post_leads_there(chain: Chain, rows: Rows) -> None:
    for name in ("Bob", "Eve", "Kim"):
        chain.route({"group_key": "post-1"} | comment(name))
    (shown,) = rows(SHOWN)
    assert (shown["title"], shown["action_url"]) == ("Kim and 2 others commented on your post", "/posts/1")


def test_people_are_told_apart_by_the_events_actor(chain: Chain, rows: Rows) -> None:
    for actor in ("bob-1", "bob-2", "bob-1"):
        chain.route({"actor": actor} | comment("Bob"))
    (shown,) = rows(SHOWN)
    assert shown["title"] == "Bob and 1 other commented on your posts"


def test_the_key_is_made_of_the_data_where_the_event_brings_none(kind: Kind, rows: Rows) -> None:
    chain = kind('key = "post {{ data.postId }}"')
    chain.route(*(comment(postId=post) for post in (1, 2, 1, 2, 1)))
    chain.route(comment(postId=2), {"group_key": "own"} | comment(postId=1))
    groups = rows("SELECT group_key, count FROM notification_groups ORDER BY 1")
    assert groups == [{"group_key": "post 1", "count": 3}, {"group_key": "post 2", "count": 3}]
    assert [row["count"] for row in rows(SHOWN)] == [3, 3, None]
    assert set(rows(WINDOWS)[0]["windows"]) == {"comment/post 1", "comment/post 2", "comment/own"}


def test_a_key_that_the_data_does_not_say_gathers_with_nothing(kind: Kind, rows: Rows) -> None:
    """The sample does; what fails on that is refused at the start."""
    chain = kind('key = "{{ 1 // (2 - data.comment | length) }}"')
    chain.route(*(comment() for _ in range(4)))
    assert len(rows(SHOWN)) == 4


def test_wording_that_fails_on_the_data_says_what_others_say(kind: Kind, rows: Rows) -> None:
    chain = kind(title="{{ count // (data.comment | length) }} of them")
    chain.route(comment(), comment())
    with chain.use.pool.connection() as connection:
        accepted = chain.address(comment())
        connection.execute(
            """UPDATE events SET data = data || '{"comment": ""}' WHERE id = %s""", (accepted[0].event_id,)
        )
    from pipelines.fan_out import fan_out

    fan_out(chain.narrow(accepted), chain.use)
    (shown,) = rows(SHOWN)
    assert (shown["title"], shown["message"]) == ("3 new comments", "Click to view all")


def test_without_a_ration_each_member_is_told_of(kind: Kind, rows: Rows) -> None:
    chain = kind()
    for _ in range(6):
        chain.route(comment())
    assert {row["channel"]: row["n"] for row in rows(SENT)} == {"web": 6, "email": 6, "fcm": 6}
    assert rows(SHOWN)[0]["silent"] is False


def test_a_group_interrupts_at_first_and_then_at_most_every_so_long(kind: Kind, rows: Rows, run: Run) -> None:
    """Two by themselves, then the group's first; two that are rationed; ten minutes later one that is not."""
    chain = kind('interrupt = "10m"')
    silent = list[Any]()
    for number in range(5):
        chain.route({"id": f"c-{number}"} | comment())
        silent.append(rows(SHOWN)[-1]["silent"])
    minutes_pass(run, rows, 10)
    for number in (5, 6):
        chain.route({"id": f"c-{number}"} | comment())
        silent.append(rows(SHOWN)[-1]["silent"])
    rationed = {"email": "rationed", "push": "rationed"}
    assert closed(rows) == [{}, {}, {}, rationed, rationed, {}, rationed]
    assert silent == [False, False, False, True, True, False, True]
    assert {row["channel"]: row["n"] for row in rows(SENT)} == {"web": 7, "email": 4, "fcm": 4}
    (shown,) = rows(SHOWN)
    assert (shown["count"], shown["title"]) == (7, "Bob commented 7 times on your posts")


def test_in_one_batch_the_group_interrupts_once(kind: Kind, rows: Rows) -> None:
    chain = kind('interrupt = "10m"')
    chain.route(*({"id": f"c-{number}"} | comment() for number in range(8)))
    assert [bool(one) for one in closed(rows)] == [False] * 3 + [True] * 5
    assert rows(SHOWN)[0]["silent"] is False


def test_a_critical_one_interrupts_all_the_same(kind: Kind, rows: Rows) -> None:
    chain = kind('interrupt = "10m"')
    chain.route(*({"id": f"c-{number}"} | comment() for number in range(4)))
    chain.route({"id": "c-4", "importance": "critical"} | comment())
    assert "rationed" in closed(rows)[3].values()
    assert "rationed" not in closed(rows)[4].values()


def test_what_waits_for_a_digest_is_not_rationed(kind: Kind, rows: Rows, run: Run) -> None:
    run("""UPDATE notification_preferences SET channels = '{"email": "digest daily", "push": true}'""")
    chain = kind('interrupt = "10m"')
    chain.route(*({"id": f"c-{number}"} | comment() for number in range(5)))
    assert closed(rows)[3:] == [{"push": "rationed"}] * 2


def test_a_group_ends_however_busy_it_is(kind: Kind, rows: Rows, run: Run) -> None:
    chain = kind('longest = "2h"')
    for _ in range(8):
        chain.route(comment())
        minutes_pass(run, rows, 20)
    groups = rows("SELECT count, closed_at IS NULL AS open FROM notification_groups")
    assert groups == [{"count": 6, "open": False}]
    assert [row["count"] for row in rows(SHOWN)] == [6, None, None]


LIMIT = '[rate_limit]\nmax = 2\nper = "1h"\noverflow = "fold"'


def test_what_is_over_the_limit_is_folded_into_one_row_at_once(kind: Kind, rows: Rows) -> None:
    """The threshold is ten; the third, over the limit, forms the group with the two that lead."""
    chain = kind("".replace("3", "10"), limit=LIMIT)
    for number in range(5):
        chain.route({"id": f"c-{number}"} | comment())
    (shown,) = rows(SHOWN)
    assert (shown["count"], shown["silent"]) == (5, True)
    over = {"email": "rate_limit", "push": "rate_limit"}
    assert closed(rows) == [{}, {}, over, over, over]
    assert {row["channel"]: row["n"] for row in rows(SENT)} == {"web": 5, "email": 2, "fcm": 2}
    assert rows("SELECT unread FROM inboxes") == [{"unread": 1}]


def test_what_has_nothing_to_be_folded_into_is_suppressed(kind: Kind, rows: Rows) -> None:
    """While a fleet changes over to templates in which the type groups no more."""
    from pipelines.fan_out import fan_out
    from pipelines.grouping import grouping

    chain = kind(limit=LIMIT)
    folded = [n for n in chain.ready(*(comment() for _ in range(3))) if n.folded]
    catalog = chain.use.catalog
    chain.use.catalog.windows.pop("comment")
    fan_out(grouping(folded, replace(chain.use, catalog=catalog)), chain.use)
    assert [one["web"] for one in closed(rows)] == ["rate_limit"]
    assert rows(SHOWN) == []


class Provider(ModuleType):
    """A channel that takes everything; `asked` are the parcels it was given."""

    SCHEDULE, BATCH, LEASE = (10,), 100, 60

    def __init__(self, name: str, serves: str) -> None:
        super().__init__("provider")
        self.NAME, self.SERVES = name, serves
        self.asked: list[Parcel] = []

    def send(self, parcels: Sequence[Parcel], _: Resources) -> list[Outcome]:
        self.asked += parcels
        return [Sent() for _ in parcels]


def outgoing(chain: Chain, channel: str, serves: str, *batches: Sequence[UUID]) -> list[Parcel]:
    from workers.deliver import deliver

    provider = Provider(channel, serves)
    for ids in batches:
        deliver(provider, ids, chain.use, Circuit(channel))
    return provider.asked


def test_mails_one_by_one_say_their_own_and_then_the_groups_words(
    kind: Kind, process: Process, rows: Rows
) -> None:
    chain = kind()
    said = []
    for name in ("Bob", "Eve", "Kim", "Lin"):
        (parcel,) = outgoing(chain, "email", "email", chain.route(comment(name))["email"])
        said.append((parcel.title, parcel.grouped))
    assert said == [
        ("New comment from Bob", False),
        ("New comment from Eve", False),
        ("Kim and 2 others commented on your posts", True),
        ("Lin and 3 others commented on your posts", True),
    ]


def test_mails_that_come_late_say_what_they_would_have_said(kind: Kind, process: Process) -> None:
    """Of those that had rows of their own, also after the group has formed: no two say the same."""
    chain = kind()
    leading = chain.route(comment("Bob"), comment("Eve"))["email"]
    chain.route(comment("Kim"))
    found = outgoing(chain, "email", "email", leading)
    assert {(parcel.title, parcel.grouped) for parcel in found} == {
        ("New comment from Bob", False),
        ("New comment from Eve", False),
    }


@pytest.mark.parametrize(("channel", "serves"), [("email", "email"), ("fcm", "push")])
def test_what_goes_out_together_is_told_once(
    kind: Kind, process: Process, rows: Rows, channel: str, serves: str
) -> None:
    chain = kind()
    ids = chain.route(*(comment(name) for name in ("Bob", "Eve", "Kim", "Lin", "Max")))[channel]
    (parcel,) = outgoing(chain, channel, serves, ids, ids)
    assert (parcel.title, parcel.grouped, parcel.count) == ("Max and 4 others commented on your posts", True, 5)
    states = rows(
        "SELECT state, reason, count(*)::int AS n FROM deliveries WHERE channel = %s GROUP BY 1, 2", channel
    )
    assert sorted(map(str, states)) == [
        str({"state": "sent", "reason": None, "n": 1}),
        str({"state": "suppressed", "reason": "grouped", "n": 4}),
    ]


def test_groups_and_people_that_go_out_together_keep_apart(kind: Kind, process: Process, run: Run) -> None:
    run("INSERT INTO users (id, email) VALUES ('eve', 'eve@example.com')")
    run(ALL_ON.replace("ada", "eve"))
    chain = kind()
    events = [{"group_key": key, "recipients": ["ada", "eve"]} | comment() for key in ("a", "b") for _ in range(3)]
    found = outgoing(chain, "email", "email", chain.route(*events, {"group_key": "c"} | comment())["email"])
    assert sorted((parcel.user, parcel.grouped) for parcel in found) == [
        ("ada", False),
        ("ada", True),
        ("ada", True),
        ("eve", True),
        ("eve", True),
    ]


def test_a_mail_of_a_group_has_the_layout_and_not_the_words_of_one_event(catalog: Catalog) -> None:
    content = catalog.render("comment", CONTENT, "ada", None)
    for of_group, own in ((False, True), (True, False)):
        letter = catalog.letter("comment", of_group=of_group)
        mail = letter.render(content, CONTENT, "ada", None, "https://a.test/u", "https://a.test")
        assert ("<strong>Bob</strong>" in mail.html) is own


def test_however_many_producers_speak_at_once_there_is_one_group(kind: Kind, rows: Rows) -> None:
    """Each with a chain of its own on the same user and key: none is lost, none counts twice."""
    chain = kind('key = "{{ data.postId }}"\ninterrupt = "10m"')
    at = time.monotonic()

    def produce(number: int) -> None:
        for event in range(EVENTS):
            chain.route({"id": f"{number}-{event}"} | comment(f"P{number}"))

    at_once(PRODUCERS, produce)
    took = time.monotonic() - at
    print(f"{PRODUCERS} producers, {PRODUCERS * EVENTS:,} events of one user and key: {took:.1f} s")  # noqa: T201
    total = PRODUCERS * EVENTS
    (group,) = rows("SELECT * FROM notification_groups")
    assert (group["group_key"], group["count"], group["closed_at"]) == ("1", total, None)
    (shown,) = rows(SHOWN)
    assert (shown["id"], shown["count"]) == (group["id"], total)
    assert rows("SELECT count(*)::int AS n FROM notifications WHERE group_id = %s", group["id"]) == [{"n": total}]
    assert rows("SELECT seq, unread FROM inboxes WHERE user_id = 'ada'") == [{"seq": shown["seq"], "unread": 1}]
    assert rows("SELECT sum(routed_count)::int AS n FROM events") == [{"n": total}]
    first = rows("SELECT id FROM notifications WHERE event_id IS NOT NULL AND seq = 1")
    assert shown["id"] == group_id(first[0]["id"])
    assert {row["channel"]: row["n"] for row in rows(SENT)} == {"web": total, "email": 3, "fcm": 3}


def test_a_critical_member_is_sent_whatever_becomes_of_the_others(
    kind: Kind, process: Process, client: Any, tmp_path: Path
) -> None:
    """The last one would speak for both, but is only for who is not looking."""
    chain = kind()
    file = tmp_path / "templates" / "comment" / "type.toml"
    file.write_text(file.read_text().replace("email = false", 'email = "if offline"'))
    chain = Chain(replace(chain.use, catalog=Catalog.load(file.parents[1])))
    chain.route(*(comment(name) for name in ("Bob", "Eve", "Kim")))
    ids = [
        id_
        for event in (comment("Lin") | {"importance": "critical"}, comment("Max"))
        for id_ in chain.route(event)["email"]
    ]
    client.set(presence_key("ada"), "some gateway")
    (parcel,) = outgoing(chain, "email", "email", ids)
    assert parcel.importance == "critical"


def test_what_is_rationed_is_not_charged_to_its_channels_limit(kind: Kind, client: Any, rows: Rows) -> None:
    chain = kind(
        'interrupt = "10m"', '[rate_limit]\nmax = 100\nper = "1h"\nchannels.email = {max = 4, per = "1h"}'
    )
    for name in ("Bob", "Eve", "Kim", "Lin", "Max", "Noa"):
        chain.route(comment(name))
    assert client.zcard("tocsin:limit:comment/email:ada") == 3
    chain.route(comment("Ono") | {"group_key": "another"})
    assert [one.get("email") for one in closed(rows)] == [
        None,
        None,
        None,
        "rationed",
        "rationed",
        "rationed",
        None,
    ]


def test_over_the_limit_and_with_nothing_to_be_folded_into_it_is_suppressed(kind: Kind, rows: Rows) -> None:
    """Its data does not say what it is about."""
    key = 'key = "{{ 1 // (2 - data.comment | length) }}"'
    chain = kind(key, '[rate_limit]\nmax = 1\nper = "1h"\noverflow = "fold"')
    for name in ("Bob", "Eve", "Kim"):
        chain.route(comment(name))
    assert len(rows(SHOWN)) == 1
    assert [set(one.values()) for one in closed(rows)] == [set(), {"rate_limit"}, {"rate_limit"}]


def test_the_one_that_interrupts_is_loud_though_a_silent_one_came_before_it_was_published(
    kind: Kind, process: Process, client: Any
) -> None:
    from workers.channels import web
    from workers.publications import publish

    chain = kind('interrupt = "10m"')
    chain.route(comment("Bob"), comment("Eve"))
    loud = chain.route(comment("Kim"))["web"]
    silent = chain.route(comment("Lin"))["web"]
    heard = client.pubsub()
    heard.subscribe(user_channel("ada"))
    heard.get_message(timeout=5)
    for ids in (loud, silent):
        publish(web, ids, chain.use)
    told = [msgspec.json.decode(heard.get_message(timeout=5)["data"], type=Publication) for _ in range(2)]
    heard.close()
    assert [one.item and one.item.silent is True for one in told] == [False, True]
