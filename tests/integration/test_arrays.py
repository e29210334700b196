"""Whatever a batch holds comes out of PostgreSQL as it went in."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.arrays import array, json
from workers.embedded import Servers

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
SYNTAX = st.text("{}\",\\ \n\tNULnul'%()")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
usual = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module")
def connection(servers: Servers) -> Iterator[psycopg.Connection]:
    """Beside the tests' databases: what only asks for constants needs no tables."""
    url = f"{servers.database_url.rpartition('/')[0]}/postgres"
    with psycopg.connect(url, autocommit=True) as opened:
        yield opened


def through(connection: psycopg.Connection, kind: str, value: str) -> Any:
    (found,) = connection.execute(f"SELECT %s::{kind}", (value,)).fetchone() or ()
    return found


@usual
@given(st.lists(st.none() | TEXT | SYNTAX))
@example(["NULL", None, "", '"', "\\", "{}", ",", " ", "\x01\x7f\u2028\U0010ffff"])
def test_texts(connection: psycopg.Connection, values: list[str | None]) -> None:
    assert through(connection, "text[]", array(values)) == values


@usual
@given(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.none() | st.booleans()),
    st.lists(st.none() | st.uuids()),
    st.lists(st.none() | st.datetimes(datetime(1970, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))),
)
def test_what_is_no_text(
    connection: psycopg.Connection,
    numbers: list[int | None],
    truths: list[bool | None],
    ids: list[UUID | None],
    instants: list[datetime | None],
) -> None:
    assert through(connection, "bigint[]", array(numbers)) == numbers
    assert through(connection, "boolean[]", array(truths)) == truths
    assert through(connection, "uuid[]", array(ids)) == ids
    assert through(connection, "timestamptz[]", array(instants)) == instants


@usual
@given(JSON)
def test_json(connection: psycopg.Connection, value: Any) -> None:
    assert through(connection, "jsonb", json(value)) == value


@usual
@given(st.lists(JSON, max_size=5))
def test_documents(connection: psycopg.Connection, values: list[Any]) -> None:
    """As they come out of one list, each beside what has its place in an array."""
    query = "SELECT * FROM ROWS FROM (unnest(%s::int[]), jsonb_array_elements(%s::jsonb)) AS d (n, value)"
    found = connection.execute(query, (array(range(len(values))), json(values))).fetchall()
    assert found == list(enumerate(values))
