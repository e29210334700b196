"""The preferences stage and rows of opt_outs: whose, of which channel, of which category."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from psycopg import Connection, Cursor
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from pipelines.accept import Accepted, address
from pipelines.catalog import Catalog
from pipelines.preferences import preferences
from pipelines.stage import Resources
from schema.notification import CHANNELS, Notification

AT = datetime(2030, 1, 1, tzinfo=UTC)
WANTED = """
INSERT INTO notification_preferences (user_id, type, channels)
SELECT u.id, t.name, '{"web": true, "email": true, "push": true}'
FROM users u CROSS JOIN unnest('{comment,like,order}'::text[]) AS t (name)
"""


@pytest.fixture
def all_served(use: Resources, run) -> Resources:
    """Ada and Bob want everything, everywhere."""
    run("INSERT INTO users (id) VALUES ('ada'), ('bob'), ('a,\"{b}\\')")
    run(WANTED)
    return replace(use, served=frozenset(CHANNELS))


def one(catalog: Catalog, kind: str, user: str, importance: str | None = None) -> Notification:
    return address(Accepted(f"e-{uuid4()}", kind, [user], importance, None, AT), catalog)[0]


def opted_out(batch: list[Notification], use: Resources) -> list[set[str]]:
    """Of each, the channels closed because of an opt-out."""
    found = []
    for n in preferences(batch, use):
        assert set(n.open) | set(n.closed) == set(CHANNELS)
        found.append({channel for channel, reason in n.closed.items() if reason == "opted_out"})
    return found


def test_only_that_user_that_category_and_that_channel(all_served: Resources, catalog: Catalog, run) -> None:
    run("INSERT INTO opt_outs VALUES ('ada', 'email', 'social'), ('bob', 'push', 'orders')")
    batch = [one(catalog, kind, user) for user in ("ada", "bob") for kind in ("comment", "like", "order")]
    assert opted_out(batch, all_served) == [{"email"}, {"email"}, set(), set(), set(), {"push"}]
    assert opted_out(batch[::-1], all_served) == [{"push"}, set(), set(), set(), {"email"}, {"email"}]


def test_several_of_one_user(all_served: Resources, catalog: Catalog, run) -> None:
    run(
        "INSERT INTO opt_outs VALUES ('ada', 'email', 'social'), ('ada', 'push', 'social'), ('ada', 'web', 'gone')"
    )
    assert opted_out([one(catalog, "comment", "ada")], all_served) == [{"email", "push"}]


@pytest.mark.parametrize(("importance", "closed"), [("low", {"email"}), ("high", {"email"}), ("critical", set())])
def test_importance(all_served: Resources, catalog: Catalog, run, importance: str, closed: set[str]) -> None:
    run("INSERT INTO opt_outs VALUES ('ada', 'email', 'social')")
    assert opted_out([one(catalog, "comment", "ada", importance)], all_served) == [closed]


def test_a_user_whose_id_is_hard_to_quote(all_served: Resources, catalog: Catalog, run) -> None:
    user = 'a,"{b}\\'
    run("INSERT INTO opt_outs VALUES (%s, 'email', 'social')", user)
    assert opted_out([one(catalog, "comment", user), one(catalog, "comment", "ada")], all_served) == [
        {"email"},
        set(),
    ]


def test_a_user_who_wants_something_again(all_served: Resources, catalog: Catalog, run) -> None:
    run("INSERT INTO opt_outs VALUES ('ada', 'email', 'social')")
    batch = [one(catalog, "comment", "ada")]
    assert opted_out(batch, all_served) == [{"email"}]
    run("DELETE FROM opt_outs")
    assert opted_out(batch, all_served) == [set()]


class Counted(Connection[TupleRow]):
    """Keeps what it is given to execute."""

    given: ClassVar[list[object]] = []

    def execute(self, query: Any, *arguments: Any, **options: Any) -> Cursor[TupleRow]:
        self.given.append(query)
        return super().execute(query, *arguments, **options)


def test_one_statement_for_a_batch(all_served: Resources, catalog: Catalog, database_url: str, run) -> None:
    run("INSERT INTO opt_outs SELECT id, 'email', 'social' FROM users")
    batch = [one(catalog, kind, user) for user in ("ada", "bob") for kind in ("comment", "order")] * 100
    with ConnectionPool(database_url, connection_class=Counted, min_size=1, max_size=1) as pool:
        found = opted_out(batch, replace(all_served, pool=pool))
    assert len(Counted.given) == 1, Counted.given
    assert found == [{"email"}, set(), {"email"}, set()] * 100
