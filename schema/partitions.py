"""Months of the partitioned tables, as SQL text. The migration command and the clock run it."""

from collections.abc import Iterator
from datetime import UTC, datetime

from schema.identity import first_id_at

PARTITIONED = ("notifications", "deliveries", "attempts")
MONTHS_AHEAD = 3


def months(now: datetime) -> Iterator[datetime]:
    """The first instants of last month, this one, and the next three (UTC)."""
    first = now.year * 12 + now.month - 1 - 1
    for index in range(first, first + MONTHS_AHEAD + 2):
        yield datetime(index // 12, index % 12 + 1, 1, tzinfo=UTC)


def month_after(month: datetime) -> datetime:
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)


def name(table: str, month: datetime) -> str:
    return f"{table}_{month:%Y_%m}"


def statements(now: datetime) -> list[str]:
    """`CREATE TABLE IF NOT EXISTS … PARTITION OF …` for every table and month; repeating changes nothing."""
    return [
        f"CREATE TABLE IF NOT EXISTS {name(table, month)} PARTITION OF {table} "
        f"FOR VALUES FROM ('{first_id_at(month)}') TO ('{first_id_at(month_after(month))}')"
        for table in PARTITIONED
        for month in months(now)
    ]
