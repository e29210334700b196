"""What does not fit is named by its path, as a caller wrote it."""

from typing import Annotated

import msgspec
import pytest

from workers.gateway.refusal import Refused, fitting


class Inner(msgspec.Struct):
    name: str
    number: Annotated[int, msgspec.Meta(ge=1)] = 1


class Outer(msgspec.Struct):
    rows: list[Inner] = []
    flags: dict[str, bool] = {}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"rows": [{"name": "a"}, {"name": 5}]}, "rows[1].name"),
        ({"rows": [{}]}, "rows[0]"),
        ({"rows": [{"name": "a", "number": 0}]}, "rows[0].number"),
        ({"rows": 5}, "rows"),
        ({"flags": {"a": 1}}, "flags[...]"),
        (5, ""),
    ],
)
def test_the_path_is_the_callers(value, field):
    with pytest.raises(Refused) as refused:
        fitting(value, Outer)
    (error,) = refused.value.errors
    assert refused.value.status == 422
    assert error.field == field
    assert error.message.startswith(("Expected", "Object missing"))
    assert "$" not in error.message


def test_what_fits_is_returned():
    assert fitting({"rows": [{"name": "a"}]}, Outer) == Outer([Inner("a")])
    assert fitting({"name": "a", "number": "7"}, Inner, strict=False) == Inner("a", 7)
