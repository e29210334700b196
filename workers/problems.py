"""Errors as a caller of HTTP sees them: problem details (RFC 9457)."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from schema.errors import FieldError

MEDIA_TYPE = "application/problem+json"


def problem(status: int, detail: str, errors: Sequence[FieldError] = ()) -> bytes:
    """The body: what is wrong in one sentence, and every field that is wrong by its path."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        body["errors"] = [{"field": error.field, "message": error.message} for error in errors]
    return msgspec.json.encode(body)
