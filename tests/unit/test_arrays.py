"""Batches as text: PostgreSQL's form of arrays. tests/integration/test_arrays.py reads it back."""

from uuid import UUID

import pytest

from pipelines.arrays import array, json


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "{}"),
        (["a", "b"], '{"a","b"}'),
        ([None, "NULL", "null", ""], '{null,"NULL","null",""}'),
        (["a,b", "{c}", " d "], '{"a,b","{c}"," d "}'),
        (['say "hi"', "back\\slash", '\\"'], r'{"say \"hi\"","back\\slash","\\\""}'),
        (["a\nb\t\u2028\U0001f600", None], '{"a\nb\t\u2028\U0001f600",null}'),
        ([1, None, -(2**63)], "{1,null,-9223372036854775808}"),
        ([True, False], "{true,false}"),
        ([UUID(int=10)], '{"00000000-0000-0000-0000-00000000000a"}'),
        ([UUID(int=10), "\n"], '{"00000000-0000-0000-0000-00000000000a","\n"}'),
    ],
)
def test_array(values: list[object], text: str) -> None:
    assert array(values) == text
    assert array(iter(values)) == text


def test_json() -> None:
    assert json([{"id": UUID(int=10), "text": 'say "ä"'}]) == (
        '[{"id":"00000000-0000-0000-0000-00000000000a","text":"say \\"ä\\""}]'
    )
