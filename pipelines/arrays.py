"""Batches as parameters: PostgreSQL's text form of arrays (documentation, §8.15.6). The driver's own writes every
text through a regular expression, which made it the dearest part of a batch."""

from collections.abc import Iterable

import msgspec


def texts(values: Iterable[str | None]) -> str:
    """For `%s::text[]`, and for whatever else has a text form: `%s::jsonb[]`, `%s::timestamptz[]`."""
    quoted = (
        "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for value in values
    )
    return "{" + ",".join(quoted) + "}"


def plain(values: Iterable[object]) -> str:
    """For values whose text needs no quotes: numbers, booleans, UUIDs; None is NULL."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def json(value: object) -> str:
    return msgspec.json.encode(value).decode()
