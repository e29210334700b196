"""Batches as text: PostgreSQL's form of arrays. tests/integration/test_arrays.py reads it back."""

from uuid import UUID

import pytest

from pipelines.arrays import json, plain, texts


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "{}"),
        (["a", "b"], '{"a","b"}'),
        ([None, "NULL", "null", ""], '{NULL,"NULL","null",""}'),
        (["a,b", "{c}", " d "], '{"a,b","{c}"," d "}'),
        (['say "hi"', "back\\slash", '\\"'], r'{"say \"hi\"","back\\slash","\\\""}'),
        (["a\nb\t\u2028\U0001f600"], '{"a\nb\t\u2028\U0001f600"}'),
    ],
)
def test_texts(values: list[str | None], text: str) -> None:
    assert texts(values) == text
    assert texts(iter(values)) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "{}"),
        ([1, None, -(2**63)], "{1,NULL,-9223372036854775808}"),
        ([True, False], "{True,False}"),
        ([UUID(int=10)], "{00000000-0000-0000-0000-00000000000a}"),
    ],
)
def test_plain(values: list[object], text: str) -> None:
    assert plain(values) == text
    assert plain(iter(values)) == text


def test_json() -> None:
    assert json([{"id": UUID(int=10), "text": 'say "ä"'}]) == (
        '[{"id":"00000000-0000-0000-0000-00000000000a","text":"say \\"ä\\""}]'
    )
