"""What is wrong with a document, named at any depth and all at once."""

from typing import Literal

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from schema.fields import field_errors


class Hours(msgspec.Struct, forbid_unknown_fields=True):
    begin: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    days: list[Literal["monday", "friday"]] = []


class Keys(msgspec.Struct):
    secret: str


class Document(msgspec.Struct, forbid_unknown_fields=True):
    hours: Hours | UnsetType | None = UNSET
    listed: list[Hours] = []
    wishes: dict[str, bool | str | None] = {}
    keys: Keys | None = None


HOURS = {"from": "08:00", "to": "09:00"}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"hours": HOURS, "listed": [HOURS], "wishes": {"web": None, "push": "now"}}, {}),
        (
            {"hours": {"days": ["fri", "friday", 5], "from": 8}},
            {
                "hours.to": "is required",
                "hours.from": "expected text, got a number",
                "hours.days[0]": "must be one of monday, friday",
                "hours.days[2]": "expected text, got a number",
            },
        ),
        (
            {"listed": [HOURS, 5, HOURS | {"untill": "x", "days": "friday"}]},
            {
                "listed[1]": "expected an object, got a number",
                "listed[2].untill": "is not a known field",
                "listed[2].days": "expected an array, got text",
            },
        ),
        (
            {"wishes": {"web": 5, "push": True, "a\n": []}},
            {
                "wishes.web": "expected true or false or text or null, got a number",
                "wishes.a?": "expected true or false or text or null, got an array",
            },
        ),
        ({"hours": []}, {"hours": "expected an object or null, got an array"}),
        ({"keys": {"more": 1}}, {"keys.secret": "is required"}),
        ({"wish": {}}, {"wish": "is not a known field; did you mean 'wishes'?"}),
        ([], {"": "must be a JSON object"}),
    ],
)
def test_everything_is_named(document: object, expected: dict[str, str]) -> None:
    assert {error.field: error.message for error in field_errors(document, Document)} == expected
