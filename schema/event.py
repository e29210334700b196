"""Event: what producers enqueue, read from JSON and checked field by field.

The native form is {"type": …, "recipients": […], …}; a CloudEvents 1.0 JSON object (github.com/cloudevents/spec,
json-format §3) is understood as well. What `data` must hold is the type's business: pipelines/catalog.py.
"""

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta

from schema.errors import FieldError, InvalidEvent
from schema.fields import field_errors, json_fault, shown
from schema.identity import new_event_id

MAX_EVENTS = 500
"""Events in one call."""
MAX_RECIPIENTS = 1000
"""Recipients of one event."""
MAX_EVENT_BYTES = 64 * 1024
MAX_BODY_BYTES = 8 * 1024 * 1024

_FIRST_YEAR, _LAST_YEAR = 1970, 9998  # every time zone and every driver can hold these
_NO_CONTROLS = r"^[^\x00-\x1f\x7f]+\Z"
UserId = Annotated[str, Meta(min_length=1, max_length=128, pattern=_NO_CONTROLS)]
EventId = Annotated[str, Meta(min_length=1, max_length=255, pattern=_NO_CONTROLS)]
Importance = Literal["low", "normal", "high", "critical"]
Instant = Annotated[datetime, Meta(tz=True)]
TOPIC = r"^[A-Za-z0-9._~:@-]+$"
"""What goes into a path as it is."""
Topic = Annotated[str, Meta(min_length=1, max_length=128, extra_json_schema={"pattern": TOPIC})]
Key = Annotated[str, Meta(min_length=1, max_length=255, pattern=_NO_CONTROLS)]


class Audience(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Recipients that are not listed: a topic's subscribers, {"topic": "release-notes"}, or every user that is
    known, {"all": true}. Who belongs to it is asked when the event is due; the event's actor never does."""

    topic: Topic | None = None
    all: bool = False


class Event(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """id          the producer's idempotency key; made here when absent
    type        a folder of templates/
    recipients  users by the producer's own ids; repeats count once. Or an audience
    actor       the user who caused it
    data        what the templates speak of
    group_key   what it is about (a post, an order): notifications of one type and key gather in one group
    importance  overrides the type's
    send_at     not before this instant
    expires_at  not after this instant; later than send_at
    cancel_key  what it can be cancelled by, together with others of the same key
    source      who sent it, for tracing
    """

    type: Annotated[str, Meta(min_length=1, max_length=50)]
    recipients: Annotated[list[UserId], Meta(min_length=1, max_length=MAX_RECIPIENTS)] | Audience
    id: EventId | None = None
    actor: UserId | None = None
    data: dict[str, Any] = {}
    group_key: Annotated[str, Meta(max_length=255)] | None = None
    importance: Importance | None = None
    send_at: Instant | None = None
    expires_at: Instant | None = None
    cancel_key: Key | None = None
    source: Annotated[str, Meta(max_length=255)] | None = None


_decoder = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder(order="deterministic")

_CLOUD_ATTRIBUTES = {
    "type": "type",
    "data": "data",
    "source": "source",
    "actor": "actor",
    "groupkey": "group_key",
    "importance": "importance",
    "sendat": "send_at",
    "expiresat": "expires_at",
    "cancelkey": "cancel_key",
}


def read_event(raw: bytes, default_id: str | None = None) -> Event:
    """One event from its JSON, with an id and each recipient once. An event without an id gets `default_id`, or a
    new one. Raises InvalidEvent naming every field that is wrong."""
    if len(raw) > MAX_EVENT_BYTES:
        raise InvalidEvent([FieldError("", f"is {len(raw):,} bytes long; the limit is {MAX_EVENT_BYTES:,}")])
    try:
        event = _read(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEvent([FieldError("", json_fault(raw, error))]) from None
    recipients = event.recipients
    if isinstance(recipients, list):
        recipients = list(dict.fromkeys(recipients))
    if event.id and recipients == event.recipients:
        return event
    return msgspec.structs.replace(event, id=event.id or default_id or new_event_id(), recipients=recipients)


def body_hash(event: Event) -> str:
    """What tells a repeat (same id, same body) from a clash (same id, another body): SHA-256 in hex. A field that
    earlier releases did not have counts where it is used: their events keep their hashes."""
    body = msgspec.structs.replace(event, id=None, cancel_key=event.cancel_key or UNSET)
    return hashlib.sha256(_encoder.encode(body)).hexdigest()


def _read(raw: bytes) -> Event:
    """Raises InvalidEvent, or what msgspec raises for a document that is no JSON or that it cannot hold."""
    names: dict[str, str] = {}
    if b'"specversion"' in raw:
        document, names = _from_cloud_event(msgspec.json.decode(raw))
    else:
        try:
            return _checked(_decoder.decode(raw), raw)
        except msgspec.ValidationError:
            document = msgspec.json.decode(raw)
    errors = field_errors(document, Event)
    if errors:
        raise InvalidEvent([FieldError(names.get(e.field, e.field), e.message) for e in errors])
    return _checked(msgspec.convert(document, Event), raw)


def _checked(event: Event, raw: bytes) -> Event:
    errors = []
    whom = event.recipients
    if isinstance(whom, Audience) and (whom.topic is None) != whom.all:
        errors.append(FieldError("recipients", 'must be users, or one of {"topic": "…"} and {"all": true}'))
    if isinstance(whom, Audience) and whom.topic and not re.fullmatch(TOPIC, whom.topic):
        errors.append(FieldError("recipients.topic", "may hold letters, digits, and . _ ~ : @ -"))
    for name in ("send_at", "expires_at"):
        at: datetime | None = getattr(event, name)
        if at and not _FIRST_YEAR <= at.year <= _LAST_YEAR:
            errors.append(FieldError(name, f"must lie between the years {_FIRST_YEAR} and {_LAST_YEAR}"))
    if event.send_at and event.expires_at and event.expires_at <= event.send_at:
        errors.append(FieldError("expires_at", "must be later than send_at: as it is, nobody would be told"))
    if b"\\u0000" in raw:
        paths = _nul_paths(msgspec.json.decode(raw), "")
        errors += [FieldError(path.lstrip("."), "contains a NUL character") for path in paths]
    if errors:
        raise InvalidEvent(errors)
    return event


def _from_cloud_event(document: Any) -> tuple[object, dict[str, str]]:
    """The native form of a CloudEvent, and what its attributes are called there. `subject` is the recipient, and
    `source` with `id` the idempotency key, because the specification makes only the two together unique. Other
    extension attributes are ignored, as it asks of a consumer."""
    if not isinstance(document, dict) or "specversion" not in document:
        return document, {}
    if document["specversion"] != "1.0":
        raise InvalidEvent([FieldError("specversion", "must be '1.0'")])
    missing = [name for name in ("id", "source", "type", "subject") if not document.get(name)]
    if missing:
        raise InvalidEvent([FieldError(name, "is required in a CloudEvent") for name in missing])
    if "data_base64" in document:
        raise InvalidEvent([FieldError("data_base64", "is not supported: send JSON in data")])
    native = {ours: document[theirs] for theirs, ours in _CLOUD_ATTRIBUTES.items() if theirs in document}
    native |= {"id": f"{document['source']}#{document['id']}", "recipients": [document["subject"]]}
    names = {ours: theirs for theirs, ours in _CLOUD_ATTRIBUTES.items()}
    return native, names | {"recipients[0]": "subject", "id": "source and id"}


def _nul_paths(value: object, path: str) -> Iterator[str]:
    if isinstance(value, str) and "\0" in value:
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            if "\0" in key:
                yield path
            yield from _nul_paths(item, f"{path}.{shown(key)}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nul_paths(item, f"{path}[{index}]")
