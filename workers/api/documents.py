"""Documents that come in and errors that go out, as callers and OpenAPI see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from prometheus_client import Counter

from schema.errors import FieldError
from schema.event import TOPIC
from schema.fields import field_errors, in_words, json_fault
from workers.problems import MEDIA_TYPE

_OF_TOPICS = "may hold letters, digits, and . _ ~ : @ -"

REFUSED = Counter("tocsin_calls_refused_total", "Calls refused at the API", ["status"])


class Refused(HTTPException):
    """A call that stored nothing; `errors` names what was wrong with it, `retry_after` counts seconds."""

    def __init__(
        self, status: int, detail: str, errors: Sequence[FieldError] = (), retry_after: int | None = None
    ) -> None:
        REFUSED.labels(status).inc()
        headers = None if retry_after is None else {"retry-after": str(retry_after)}
        super().__init__(detail=detail, status_code=status, headers=headers)
        self.errors = errors


def busy(why: str, retry_after: int) -> Refused:
    """The answer to a call that came too early: 503, and what to do."""
    what = f"nothing was stored; send the same again, with the same ids, after {retry_after} s"
    return Refused(503, f"{why}; {what}", retry_after=retry_after)


S = TypeVar("S", bound=msgspec.Struct)


def read_document(body: bytes, kind: type[S], so: str = "nothing was stored") -> S:
    """A body as a `kind`. Raises Refused naming every field that is wrong; `so`: what that means."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = json_fault(body, error)
        raise Refused(422, f"the body {why}; {so}", [FieldError("", why)]) from None
    if errors := field_errors(document, kind):
        first = f"{errors[0].field}: {errors[0].message}" if errors[0].field else f"the body {errors[0].message}"
        raise Refused(422, f"{first}; {so}", errors)
    return msgspec.convert(document, kind)


def parameter_error(name: str, message: str) -> FieldError:
    """Of a part of the address; `message` is msgspec's."""
    if "matching regex" in message:
        return FieldError(name, _OF_TOPICS if TOPIC in message else "must not contain control characters")
    kind = message.partition(", got ")[0].replace(" | null", "")
    return FieldError(name, in_words(kind).replace("expected ", "must be ", 1))


class ProblemField(msgspec.Struct):
    """`field`: a path such as `data.userName` or `events[3].recipients[0]`; empty for the whole body."""

    field: str
    message: str


class Problem(msgspec.Struct):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ProblemField] = []


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """For a handler's `responses`."""
    told = {
        401: "no API key, or one that is not known",
        404: "no such thing",
        408: "the body did not arrive in time; nothing was stored",
        409: "an id was used before with another body; nothing was stored",
        413: "the body is too large; nothing was stored",
        422: "every field that is wrong; nothing was stored",
        503: "too much waits already, or the database is away; send the same again after Retry-After seconds",
    }
    return {
        status: ResponseSpec(Problem, generate_examples=False, description=told[status], media_type=MEDIA_TYPE)
        for status in statuses
    }


def documented_body(kind: type[msgspec.Struct], most: int = 1) -> type[Operation]:
    """Our handlers read the body's bytes themselves, to name everything that is wrong; this tells OpenAPI what
    they are: one `kind`, or an array of up to `most`."""
    schema: dict[str, Any] = msgspec.json.schema(kind)
    found = inline(schema["$defs"][kind.__name__], schema["$defs"])
    one = Schema(
        type=found["type"],
        properties=found["properties"],
        required=found.get("required"),
        additional_properties=False,
        description=found.get("description"),
    )
    either = Schema(one_of=[one, Schema(type="array", items=one, max_items=most)]) if most > 1 else one  # type: ignore[arg-type]

    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody({"application/json": OpenAPIMediaType(schema=either)}, required=True)

    return Documented


def inline(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with what it refers to in place: OpenAPI's document has no `$defs`."""
    match schema:
        case {"$ref": str(reference)}:
            return inline(definitions[reference.rpartition("/")[2]], definitions)
        case dict():
            return {name: inline(value, definitions) for name, value in schema.items()}
        case list():
            return [inline(value, definitions) for value in schema]
    return schema
