"""Preferences on real rows: one query for a batch, and the same answer when a delivery is claimed."""

from dataclasses import replace
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, ClassVar
from uuid import uuid4

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import Connection, Cursor
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from pipelines.arrays import array, json
from pipelines.catalog import Catalog
from pipelines.preferences import CATEGORY, GLOBAL, TYPE, preferences
from pipelines.stage import Resources
from pipelines.timing import parse
from schema.identity import milliseconds_of, notification_id
from schema.notification import CHANNELS, Notification
from tests.integration.chain import TEMPLATES, Process, Run

SAID = """
INSERT INTO notification_preferences (user_id, scope, type, enabled, channels)
SELECT * FROM ROWS FROM (
    unnest(%s::text[], %s::text[], %s::text[], %s::bool[]), jsonb_array_elements(%s::jsonb)
)
"""
OUT = "INSERT INTO opt_outs (user_id, channel, category) SELECT * FROM unnest(%s::text[], %s::text[], %s::text[])"
WRITTEN = """
INSERT INTO notifications (id, user_id, type, category, importance, title, message)
SELECT id, user_id, type, category, importance, 'a title', 'a message' FROM unnest(%s::uuid[], %s::text[],
    %s::text[], %s::text[], %s::text[]) AS n (id, user_id, type, category, importance)
"""
DELIVERIES = """
INSERT INTO deliveries (id, notification_id, user_id, channel)
SELECT uuidv7(), id, user_id, 'email' FROM notifications
"""
CLEAR = "TRUNCATE users, notifications, deliveries, attempts CASCADE"


class Counted(Connection[TupleRow]):
    """Keeps what it is given to execute."""

    given: ClassVar[list[object]] = []

    def execute(self, query: Any, *arguments: Any, **options: Any) -> Cursor[TupleRow]:
        self.given.append(query)
        return super().execute(query, *arguments, **options)


@pytest.fixture
def judged(use: Resources) -> Resources:
    """Every channel is served; comments are mailed by default, orders in a digest."""
    catalog = Catalog.load(TEMPLATES)
    for name, rule in (("comment", "now"), ("order", "digest daily")):
        kind = catalog.types[name]
        timings = {} if rule == "now" else {"email": parse(rule)}
        catalog.types[name] = msgspec.structs.replace(
            kind, channels=kind.channels | {"email": True}, timings=timings
        )
    return replace(use, catalog=catalog, served=frozenset({*CHANNELS, "fcm", "webpush"}))


def one(kind: str, user: str, importance: str = "normal") -> Notification:
    id_ = notification_id(milliseconds_of(datetime.now(UTC)), f"{uuid4()}", user)
    return Notification(id_, "e", kind, user, importance, CHANNELS, {})


def test_one_query_for_a_batch_with_words_of_every_kind(judged: Resources, database_url: str, run: Run) -> None:
    run("INSERT INTO users (id) VALUES ('ada'), ('bob'), ('cleo')")
    run(
        """INSERT INTO notification_preferences (user_id, scope, type, enabled, channels) VALUES
        ('ada', 'type', 'like', NULL, '{"email": "if offline"}'), ('ada', 'global', '', NULL, '{"web": false}'),
        ('ada', 'category', 'social', NULL, '{"web": true, "email": false}'),
        ('bob', 'category', 'orders', false, '{}'), ('bob', 'type', 'payment', true, '{}'),
        ('bob', 'category', 'comment', false, '{}'), ('bob', 'type', 'social', false, '{}')"""
    )
    run("INSERT INTO opt_outs VALUES ('cleo', 'email', ''), ('cleo', 'push', 'social'), ('cleo', 'web', 'social')")
    batch = [
        one(kind, user) for user in ("ada", "bob", "cleo") for kind in ("comment", "like", "order", "payment")
    ]
    with ConnectionPool(database_url, connection_class=Counted, min_size=1, max_size=1) as pool:
        found = preferences(batch * 50, replace(judged, pool=pool))
    assert len(Counted.given) == 1, Counted.given
    assert [(n.recipient, n.type, n.open, n.timing) for n in found[:12]] == [
        ("ada", "comment", ("web",), {}),
        ("ada", "like", ("web", "email"), {"email": "if offline"}),
        ("ada", "order", ("email",), {"email": "digest daily"}),
        ("ada", "payment", (), {}),
        ("bob", "comment", ("web", "email"), {}),
        ("bob", "like", ("web",), {}),
        ("bob", "order", (), {}),
        ("bob", "payment", ("web",), {}),
        ("cleo", "comment", (), {}),
        ("cleo", "like", (), {}),
        ("cleo", "order", ("web",), {}),
        ("cleo", "payment", ("web",), {}),
    ]
    assert found[8].closed == {"web": "opted_out", "email": "opted_out", "push": "opted_out"}


ENABLED = st.sampled_from([None, None, True, False])
WISHES = st.dictionaries(st.sampled_from(CHANNELS), st.sampled_from([True, False, "digest daily", "now"]))
PLACES = st.sampled_from(
    [(TYPE, "comment"), (TYPE, "like"), (CATEGORY, "social"), (CATEGORY, "orders"), (GLOBAL, "")]
)
SAYINGS = st.dictionaries(PLACES, st.tuples(ENABLED, WISHES), max_size=4)
OUTS = st.sets(st.tuples(st.sampled_from(CHANNELS), st.sampled_from(["", "social", "orders"])), max_size=2)
ADDRESSED = st.tuples(st.sampled_from(["comment", "like", "order"]), st.sampled_from(["low", "high", "critical"]))
PEOPLE = st.lists(st.tuples(SAYINGS, OUTS, ADDRESSED), min_size=10, max_size=40)


@pytest.fixture
def email(process: Process) -> ModuleType:
    from workers.channels import email

    return email


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(people=PEOPLE)
def test_the_stage_and_the_claim_agree(people: Any, judged: Resources, email: ModuleType, run: Run) -> None:
    """Whatever was said: what the stage would close now, a claim lets nobody send, for the same reason."""
    from workers.claims import claim

    run(CLEAR)
    users = [f"u-{number}" for number in range(len(people))]
    run(
        "INSERT INTO users (id, email) SELECT id, id || '@example.org' FROM unnest(%s::text[]) AS u (id)",
        array(users),
    )
    said = [
        (user, scope, name, *choice)
        for user, (sayings, _, _) in zip(users, people, strict=True)
        for (scope, name), choice in sayings.items()
    ]
    if said:
        user, scope, name, enabled, channels = zip(*said, strict=True)
        run(SAID, array(user), array(scope), array(name), array(enabled), json(channels))
    outs = [(user, *out) for user, (_, out_of, _) in zip(users, people, strict=True) for out in out_of]
    if outs:
        run(OUT, *map(array, zip(*outs, strict=True)))
    batch = [one(kind, user, importance) for user, (_, _, (kind, importance)) in zip(users, people, strict=True)]
    categories = [judged.catalog.types[n.type].category for n in batch]
    columns = zip(*[(n.id, n.recipient, n.type, n.importance) for n in batch], strict=True)
    ids, recipients, types, importances = map(array, columns)
    run(WRITTEN, ids, recipients, types, array(categories), importances)
    run(DELIVERIES)
    narrowed = {
        n.recipient: n.closed.get("email") for n in preferences(batch, judged) if n.importance != "critical"
    }
    with judged.pool.connection() as connection:
        deliveries = [id_ for (id_,) in connection.execute("SELECT id FROM deliveries")]
        claimed = claim(connection, email, deliveries, judged.catalog)
    reasons = {c.row.user: c.decided.reason if c.decided else None for c in claimed}
    assert len(reasons) == len(people)
    assert {user: reasons[user] for user in narrowed} == narrowed
    assert {reasons[user] for user in reasons.keys() - narrowed.keys()} <= {None}
