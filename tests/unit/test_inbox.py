"""What a notification says, and the place it gets in its recipient's inbox; without a database."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.catalog import Catalog
from pipelines.inbox import Content, Inbox, Row, compose, place
from schema.identity import group_id, notification_id
from schema.notification import Notification

TEMPLATES = Path(__file__).parents[2] / "templates"
CATALOG = Catalog.load(TEMPLATES)
AT = 1_800_000_000_000
HOUR = 3_600_000
NOW = datetime.fromtimestamp(AT / 1000, UTC)
DATA = {"userName": "Bob", "comment": "Hi", "postId": 1, "commentId": "c"}


def told(number: int = 1, *, window: str | None = "comment/", type_: str = "comment") -> Notification:
    id_ = notification_id(AT, str(number), "ada")
    return Notification(id_, str(number), type_, "ada", "normal", ("web",), {"email": "type_default"}, window)


def content(data: dict[str, Any] | None = None, expires_at: datetime | None = None) -> Content:
    data = DATA if data is None else data
    return Content(data, "bob", None, expires_at, NOW)


def composed(number: int = 1, **changes: Any) -> tuple[Notification, Row]:
    return compose(told(number, **changes), content(), CATALOG)


def placed(
    inbox: Inbox,
    number: int,
    now: int = AT,
    catalog: Catalog = CATALOG,
    event: Content | None = None,
    **changes: Any,
) -> Row:
    n, row = composed(number, **changes)
    place(n, row, event or content(), inbox, now, catalog)
    return row


def test_it_says_what_the_templates_make_of_the_event() -> None:
    n, row = composed()
    assert n == told()
    assert (row.id, row.event_id, row.user_id) == (n.id, "1", "ada")
    assert (row.type, row.category, row.importance) == ("comment", "social", "normal")
    assert (row.title, row.message, row.action_url) == ("New comment from Bob", "Hi", "/posts/1#comment-c")
    assert (row.error, row.seq, row.group_id) == (None, None, None)
    assert row.closed == {"email": "type_default"}
    assert row.created_at == NOW


@pytest.mark.parametrize(
    ("title", "titles"),
    [("Hi {{ recipient }}", ["Hi ada", "Hi bob"]), ("Hi {{ actor }}", ["Hi bob", "Hi bob"])],
)
def test_each_recipient_of_an_event_is_told_what_is_meant_for_it(
    title: str, titles: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "templates"
    shutil.copytree(TEMPLATES, folder)
    (folder / "comment" / "title.txt.j2").write_text(title)
    catalog, event = Catalog.load(folder), content()
    people = [msgspec.structs.replace(told(), recipient=name) for name in ("ada", "bob")]
    assert [compose(n, event, catalog)[1].title for n in people] == titles
    assert [compose(n, content(), catalog)[1].title for n in people] == titles


@pytest.mark.parametrize(("after", "open_"), [(-1, ()), (0, ()), (1, ("web",))])
def test_what_has_expired_goes_nowhere(after: int, open_: tuple[str, ...]) -> None:
    at = NOW + timedelta(milliseconds=after)
    n, row = compose(told(), content(expires_at=at), CATALOG)
    assert (n.open, row.closed) == (open_, n.closed)
    assert n.closed.get("web") == (None if open_ else "expired")


def test_what_cannot_be_rendered_says_where_and_never_the_content(tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    shutil.copytree(TEMPLATES, folder)
    (folder / "comment" / "message.txt.j2").write_text("{{ 7 // (data.comment | length) }}")
    n, row = compose(told(), content(DATA | {"comment": "", "userName": "secret"}), Catalog.load(folder))
    assert row.error is not None
    assert row.error.startswith("templates/comment/message.txt.j2:1: ZeroDivisionError")
    assert "secret" not in row.error
    assert (row.title, row.message, row.action_url) == (None, None, None)
    inbox = Inbox(4, 2, {})
    place(n, row, content(), inbox, AT, CATALOG)
    assert (row.seq, inbox) == (None, Inbox(4, 2, {}))


def test_a_type_that_is_gone_goes_nowhere() -> None:
    n, row = compose(told(type_="gone", window=None), content(), CATALOG)
    assert (n.open, n.closed["web"], row.closed) == ((), "unknown_type", n.closed)
    assert (row.title, row.category, row.error) == (None, "", None)
    inbox = Inbox(4, 2, {})
    place(n, row, content(), inbox, AT, CATALOG)
    assert inbox == Inbox(4, 2, {})


def test_it_gets_the_next_place_and_counts_as_unread() -> None:
    inbox = Inbox(4, 2, {})
    row = placed(inbox, 1, window=None)
    assert (row.seq, row.group_id, inbox) == (5, None, Inbox(5, 3, {}))


def test_what_web_does_not_show_has_no_place() -> None:
    inbox = Inbox(4, 2, {})
    n, row = composed()
    place(n.close({"web": "muted"}), row, content(), inbox, AT, CATALOG)
    assert (row.seq, inbox) == (None, Inbox(4, 2, {}))


def test_the_third_makes_one_row_of_three() -> None:
    """The group has the newest place, and the two that were counted become one."""
    inbox = Inbox(0, 0, {})
    first, second = placed(inbox, 1), placed(inbox, 2)
    assert (first.seq, second.seq, inbox.seq, inbox.unread, inbox.groups) == (1, 2, 2, 2, {})
    third = placed(inbox, 3)
    (group,) = inbox.groups
    assert group == group_id(first.id)
    assert (third.seq, third.group_id) == (None, group)
    grown = inbox.groups[group]
    assert (grown.last, grown.window, grown.joined.total, grown.seq) == (third, "comment/", 3, 3)
    assert grown.leading == [first.id, second.id]
    assert (inbox.seq, inbox.unread) == (3, 1)


def test_a_group_that_grows_in_one_batch_takes_one_place() -> None:
    inbox = Inbox(0, 0, {})
    rows = [placed(inbox, number) for number in range(1, 8)]
    (grown,) = inbox.groups.values()
    assert (grown.joined.total, grown.seq, grown.last, len(grown.leading)) == (7, 3, rows[-1], 2)
    assert (inbox.seq, inbox.unread) == (3, 1)


def test_a_group_that_grows_in_the_next_batch_moves_up_and_counts_no_more() -> None:
    inbox = Inbox(0, 0, {})
    for number in range(1, 4):
        placed(inbox, number)
    following = Inbox(inbox.seq, inbox.unread, msgspec.json.decode(msgspec.json.encode(inbox.windows)))
    last = placed(following, 4)
    (grown,) = following.groups.values()
    assert (grown.joined.total, grown.seq, grown.last, grown.leading) == (4, 4, last, [])
    assert (following.seq, following.unread) == (4, 1)


def test_a_window_that_ended_names_its_group_once() -> None:
    inbox = Inbox(0, 0, {})
    for number in range(1, 4):
        placed(inbox, number)
    (group,) = inbox.groups
    following = Inbox(inbox.seq, inbox.unread, inbox.windows)
    rows = [placed(following, number, AT + HOUR) for number in (4, 5)]
    assert following.ended == [group]
    assert ([row.seq for row in rows], following.unread, following.groups) == ([4, 5], 3, {})


def test_a_type_that_groups_no_more_ends_its_windows(tmp_path: Path) -> None:
    inbox = Inbox(0, 0, {})
    for number in range(1, 4):
        placed(inbox, number)
    folder = tmp_path / "templates"
    shutil.copytree(TEMPLATES, folder)
    file = folder / "comment" / "type.toml"
    file.write_text(file.read_text().partition("[grouping]")[0])
    changed = Catalog.load(folder)
    following = Inbox(inbox.seq, inbox.unread, inbox.windows)
    assert placed(following, 4, catalog=changed).seq == 4
    n, row = composed(5)
    place(msgspec.structs.replace(n, type="like", window="like/"), row, content(), following, AT, changed)
    assert (following.ended, list(following.windows)) == ([*inbox.groups], ["like/"])
