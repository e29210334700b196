"""JSON documents held against a struct, with everything that is wrong named at once and in plain words."""

import difflib
import json
import re
from collections.abc import Iterable
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from schema.errors import FieldError

MOST = 20
"""Errors of one array: the answer to a thousand bad recipients is no longer than it is read."""

_WORDS = {
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
    "datetime": "an instant like 2026-01-31T09:00:00+01:00",
}


def json_fault(raw: bytes, error: Exception) -> str:
    """Why bytes are not the JSON we can take, after msgspec said so in its own words: to follow "the event …"."""
    if not raw.strip():
        return "is empty"
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        return f"is not UTF-8 (byte {wrong.start})"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, msgspec.ValidationError):
        return "holds a number that is out of range"
    try:
        json.loads(raw)
    except RecursionError:
        return "is nested too deeply"
    except ValueError:
        return f"is not JSON: {error}"
    return "holds half of a surrogate pair (such as \\ud800), which is not text"


def field_errors(document: object, kind: type[msgspec.Struct]) -> list[FieldError]:
    """Everything wrong with a document that is not a `kind`, at any depth; msgspec itself stops at the first."""
    if not isinstance(document, dict):
        return [FieldError("", "must be a JSON object")]
    return _in_struct(document, kind, "", open_to_more=False)


def not_known(name: str, known: Iterable[str], what: str = "field") -> FieldError:
    """Of a name that is none of these."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return FieldError(shown(name), f"is not a known {what}{hint}")


def in_words(message: str) -> str:
    """msgspec's "Expected `str`, got `int`" as we say it."""
    text = re.sub(r"`([a-z |]+)`", _in_words, message).replace("`", "")
    return text[:1].lower() + text[1:]


def _in_struct(
    document: dict[str, Any], kind: type[msgspec.Struct], place: str, *, open_to_more: bool
) -> list[FieldError]:
    """`place` ends in a dot, unless it is empty."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    errors = []
    for name in document:
        if name not in fields and not open_to_more:
            wrong = not_known(name, fields)
            errors.append(FieldError(place + wrong.field, wrong.message))
    for name, field in fields.items():
        if name in document:
            errors += _wrong(document[name], field.type, place + name)
        elif field.required:
            errors.append(FieldError(place + name, "is required"))
    return errors


def _wrong(value: object, kind: Any, place: str) -> list[FieldError]:
    """What is wrong with a value: with its parts, if it can be told which."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return _in_parts(value, kind, place, " - at `$" in str(error)) or [_field_error(place, kind, str(error))]
    return []


def _in_parts(value: object, kind: Any, place: str, inside: bool) -> list[FieldError]:
    """`inside`: the value itself is of the right form and size."""
    for one in _kinds(kind):
        if isinstance(value, dict) and isinstance(one, type) and issubclass(one, msgspec.Struct):
            more = not one.__struct_config__.forbid_unknown_fields
            return _in_struct(value, one, f"{place}.", open_to_more=more)
        if inside and isinstance(value, dict) and get_origin(one) is dict:
            parts = ((f"{place}.{shown(key)}", part) for key, part in value.items())
        elif inside and isinstance(value, list) and get_origin(one) is list:
            parts = ((f"{place}[{index}]", part) for index, part in enumerate(value))
        else:
            continue
        found = (error for at, part in parts for error in _wrong(part, get_args(one)[-1], at))
        return list(islice(found, MOST))
    return []


def _kinds(kind: Any) -> list[Any]:
    """What a value may be: the members of a union, without what Annotated adds."""
    if get_origin(kind) is Annotated:
        return _kinds(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [one for part in get_args(kind) for one in _kinds(part)]
    return [kind]


def _field_error(place: str, kind: Any, message: str) -> FieldError:
    text, _, path = message.partition(" - at `$")
    field = place + path.rstrip("`")
    if "matching regex" in text:
        return FieldError(field, "must not contain control characters")
    if "enum value" in text:
        choices = [choice for one in _kinds(kind) if get_origin(one) is Literal for choice in get_args(one)]
        return FieldError(field, f"must be one of {', '.join(choices)}")
    if "datetime" in text or "RFC3339" in text:
        return FieldError(field, f"must be {_WORDS['datetime']}")
    return FieldError(field, in_words(text))


def _in_words(kinds: re.Match[str]) -> str:
    return " or ".join(_WORDS.get(kind, kind) for kind in kinds[1].split(" | "))


def shown(name: str) -> str:
    """A key of the sender's, fit for an error message."""
    return re.sub(r"[^ -~]", "?", name)[:80]
