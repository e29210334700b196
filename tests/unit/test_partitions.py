"""Months of the partitioned tables: whole, adjoining, and enough of them."""

import re
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schema.identity import time_ordered_id
from schema.partitions import MONTHS_AHEAD, PARTITIONED, month_after, months, name, statements

NOW = st.datetimes(datetime(1971, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))
few = settings(max_examples=40, deadline=None)
STATEMENT = re.compile(
    r"CREATE TABLE IF NOT EXISTS (\w+)_(\d{4}_\d{2}) PARTITION OF (\w+) FOR VALUES FROM \('(.+)'\) TO \('(.+)'\)"
)


def bounds(table: str, now: datetime) -> list[tuple[UUID, UUID]]:
    found = [STATEMENT.fullmatch(statement) for statement in statements(now)]
    return [(UUID(m[4]), UUID(m[5])) for m in found if m and m[3] == table]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2030-06-15T12:00:00", "2030-05 2030-06 2030-07 2030-08 2030-09"),
        ("2030-01-01T00:00:00", "2029-12 2030-01 2030-02 2030-03 2030-04"),
        ("2030-10-31T23:59:59", "2030-09 2030-10 2030-11 2030-12 2031-01"),
        ("2030-12-31T23:59:59", "2030-11 2030-12 2031-01 2031-02 2031-03"),
        ("2032-02-29T00:00:00", "2032-01 2032-02 2032-03 2032-04 2032-05"),
    ],
)
def test_last_month_this_one_and_three_more(now: str, expected: str) -> None:
    found = list(months(datetime.fromisoformat(now).replace(tzinfo=UTC)))
    assert " ".join(f"{month:%Y-%m}" for month in found) == expected
    assert all(month.replace(day=1, hour=0, minute=0, second=0, microsecond=0) == month for month in found)


def test_a_statement_names_its_month_and_its_bounds() -> None:
    now = datetime(2030, 12, 24, tzinfo=UTC)
    assert statements(now)[1] == (
        "CREATE TABLE IF NOT EXISTS notifications_2030_12 PARTITION OF notifications "
        "FOR VALUES FROM ('01bf92d1-bc00-0000-0000-000000000000') TO ('01c03276-e000-0000-0000-000000000000')"
    )
    assert name("attempts", datetime(2031, 1, 1, tzinfo=UTC)) == "attempts_2031_01"


def test_every_table_has_every_month_once() -> None:
    now = datetime(2030, 11, 5, tzinfo=UTC)
    found = [match.groups() for statement in statements(now) if (match := STATEMENT.fullmatch(statement))]
    assert [(table, month) for table, month, *_ in found] == [
        (table, f"{month:%Y_%m}") for table in PARTITIONED for month in months(now)
    ]
    assert all(made == of for made, _, of, *_ in found)


@few
@given(NOW)
def test_months_adjoin(now: datetime) -> None:
    found = list(months(now))
    assert len(found) == MONTHS_AHEAD + 2
    assert found[1] == datetime(now.year, now.month, 1, tzinfo=UTC)
    assert all(month_after(one) == two for one, two in pairwise(found))
    for table in PARTITIONED:
        made = bounds(table, now)
        assert len(made) == len(found)
        assert all(one[1] == two[0] for one, two in pairwise(made))


@few
@given(st.data(), NOW)
def test_an_id_has_one_place_in_the_month_of_its_time(data: st.DataObject, now: datetime) -> None:
    found = list(months(now))
    ends = [round(month.timestamp() * 1000) for month in [*found, month_after(found[-1])]]
    at = data.draw(st.integers(ends[0], ends[-1] - 1) | st.sampled_from([e - 1 for e in ends[1:]] + ends[:-1]))
    id_ = time_ordered_id(at, "x")
    places = [number for number, (first, end) in enumerate(bounds("deliveries", now)) if first <= id_ < end]
    assert places == [max(number for number, begin in enumerate(ends) if begin <= at)]


def test_what_is_made_early_is_the_same_as_what_is_made_late() -> None:
    """The month after next, made now, overlaps nothing that is made then."""
    early, late = datetime(2030, 10, 1, tzinfo=UTC), datetime(2030, 12, 31, tzinfo=UTC)
    assert len(set(statements(early)) & set(statements(late))) == 3 * len(PARTITIONED)
