"""Batches as parameters: PostgreSQL's text form of arrays (documentation, §8.15.6), and JSON. The driver's own
arrays write every text through a regular expression, which made them the dearest part of a batch."""

from collections.abc import Iterable

import msgspec


def array(values: Iterable[object]) -> str:
    """For `%s::text[]`, `%s::uuid[]` and others whose elements are one text, number or truth in JSON; None is
    NULL. Documents travel cheaper as one list: `jsonb_array_elements(%s::jsonb)`."""
    listed = list(values)
    elements = json(listed)[1:-1]
    if "\\" in elements:  # quotes, commas and null mean the same in both forms, but most escapes do not
        elements = ",".join(quoted(value) if isinstance(value, str) else json(value) for value in listed)
    return "{" + elements + "}"


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def json(value: object) -> str:
    return msgspec.json.encode(value).decode()
