"""JSON documents held against a struct, with everything that is wrong named at once and in plain words."""

import difflib
import json
import re
from typing import Any, Literal, get_args, get_origin

import msgspec

from schema.errors import FieldError

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
    """Everything wrong with a document that is not a `kind`; msgspec itself stops at the first."""
    if not isinstance(document, dict):
        return [FieldError("", "must be a JSON object")]
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    errors = []
    for name in document:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            errors.append(FieldError(shown(str(name)), f"is not a known field{hint}"))
    for name, field in fields.items():
        if name not in document:
            if field.required:
                errors.append(FieldError(name, "is required"))
            continue
        try:
            msgspec.convert(document[name], field.type)
        except msgspec.ValidationError as error:
            errors.append(_field_error(name, field.type, str(error)))
    return errors


def _field_error(name: str, kind: Any, message: str) -> FieldError:
    """msgspec's "Expected `str`, got `int` - at `$[2]`" as a field and a sentence."""
    text, _, path = message.partition(" - at `$")
    field = name + path.rstrip("`")
    if "matching regex" in text:
        return FieldError(field, "must not contain control characters")
    if "enum value" in text:
        return FieldError(field, f"must be one of {', '.join(_choices(kind))}")
    if "datetime" in text or "RFC3339" in text:
        return FieldError(field, f"must be {_WORDS['datetime']}")
    text = re.sub(r"`([a-z |]+)`", _in_words, text).replace("`", "")
    return FieldError(field, text[:1].lower() + text[1:])


def _in_words(kinds: re.Match[str]) -> str:
    return " or ".join(_WORDS.get(kind, kind) for kind in kinds[1].split(" | "))


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for part in get_args(kind) for choice in _choices(part)]


def shown(name: str) -> str:
    """A key of the sender's, fit for an error message."""
    return re.sub(r"[^ -~]", "?", name)[:80]
