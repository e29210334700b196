"""Events from JSON: what passes, and what is said of what does not."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schema.errors import FieldError, InvalidEvent
from schema.event import MAX_EVENT_BYTES, MAX_RECIPIENTS, Event, body_hash, read_event

LEAST: dict[str, Any] = {"type": "comment", "recipients": ["ada"]}
CLOUD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "7",
    "source": "/shop",
    "type": "order",
    "subject": "ada",
}


INSTANT = "must be an instant like 2026-01-31T09:00:00+01:00"


def read(**changes: Any) -> Event:
    return read_event(json.dumps(LEAST | changes).encode())


def errors_of(raw: bytes) -> dict[str, str]:
    with pytest.raises(InvalidEvent) as caught:
        read_event(raw)
    return {error.field: error.message for error in caught.value.errors}


def errors(**changes: Any) -> dict[str, str]:
    return errors_of(json.dumps(LEAST | changes).encode())


def cloud(**changes: Any) -> bytes:
    kept = {name: value for name, value in (CLOUD | changes).items() if value is not ...}
    return json.dumps(kept).encode()


def test_the_least_event() -> None:
    event = read()
    assert event.id
    assert (event.type, event.recipients, event.data) == ("comment", ["ada"], {})
    assert (event.actor, event.group_key, event.importance, event.send_at, event.expires_at) == (None,) * 5


def test_an_event_without_an_id_gets_one_of_its_own() -> None:
    assert len({read().id for _ in range(100)}) == 100


def test_every_field() -> None:
    event = read(
        id="c-1",
        actor="bob",
        data={"n": 1},
        group_key="post-9",
        importance="critical",
        send_at="2030-01-02T03:04:05+02:00",
        expires_at="2031-01-01T00:00:00Z",
        source="blog",
    )
    assert (event.id, event.actor, event.data, event.group_key) == ("c-1", "bob", {"n": 1}, "post-9")
    assert (event.importance, event.source) == ("critical", "blog")
    assert event.send_at == datetime(2030, 1, 2, 1, 4, 5, tzinfo=UTC)
    assert event.expires_at == datetime(2031, 1, 1, tzinfo=UTC)


def test_a_recipient_named_twice_counts_once_and_the_order_stays() -> None:
    assert read(recipients=["b", "a", "b", "c", "a"]).recipients == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("field", "value", "where", "message"),
    [
        ("type", 5, "type", "expected text, got a number"),
        ("type", "", "type", "expected text of length >= 1"),
        ("type", "x" * 51, "type", "expected text of length <= 50"),
        ("recipients", "ada", "recipients", "expected an object or an array, got text"),
        ("recipients", [], "recipients", "expected an array of length >= 1"),
        ("recipients", ["ada", 5], "recipients[1]", "expected text, got a number"),
        ("recipients", ["ada", ""], "recipients[1]", "expected text of length >= 1"),
        ("recipients", ["x" * 129], "recipients[0]", "expected text of length <= 128"),
        ("recipients", ["a\nb"], "recipients[0]", "must not contain control characters"),
        (
            "recipients",
            ["x"] * (MAX_RECIPIENTS + 1),
            "recipients",
            f"expected an array of length <= {MAX_RECIPIENTS}",
        ),
        ("id", "", "id", "expected text of length >= 1"),
        ("id", "x" * 256, "id", "expected text of length <= 255"),
        ("id", "a\x7fb", "id", "must not contain control characters"),
        ("actor", "x" * 129, "actor", "expected text of length <= 128"),
        ("data", [], "data", "expected an object, got an array"),
        ("data", None, "data", "expected an object, got null"),
        ("group_key", "x" * 256, "group_key", "expected text of length <= 255"),
        ("importance", "urgent", "importance", "must be one of low, normal, high, critical"),
        ("send_at", "tomorrow", "send_at", INSTANT),
        ("send_at", "2030-01-01T00:00:00", "send_at", INSTANT),
        ("expires_at", 1_900_000_000, "expires_at", INSTANT),
        ("source", "x" * 256, "source", "expected text of length <= 255"),
        ("recipient", "ada", "recipient", "is not a known field; did you mean 'recipients'?"),
        ("zzz", 1, "zzz", "is not a known field"),
    ],
)
def test_what_is_said_of_a_wrong_field(field: str, value: object, where: str, message: str) -> None:
    assert errors(**{field: value}) == {where: message}


@pytest.mark.parametrize("field", ["id", "actor", "group_key", "source"])
def test_what_may_be_absent_is_text_otherwise(field: str) -> None:
    (said,) = errors(**{field: 7}).items()
    assert said[0] == field
    assert said[1].endswith(", got a number")


def test_longest_values_pass() -> None:
    event = read(
        type="x" * 50,
        id="x" * 255,
        actor="x" * 128,
        group_key="x" * 255,
        source="x" * 255,
        recipients=["x" * 128],
    )
    assert len(event.id or "") == 255


def test_every_wrong_field_is_named_at_once() -> None:
    found = errors_of(b'{"recipients": [1], "importance": "x", "send_at": "y", "colour": 1}')
    assert set(found) == {"type", "recipients[0]", "importance", "send_at", "colour"}
    assert found["type"] == "is required"


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"specversion"', b"7", b"true"])
def test_json_that_is_no_object(raw: bytes) -> None:
    assert errors_of(raw) == {"": "must be a JSON object"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "is not JSON: "),
        (b'{"type": "comment", "recipients": ["ada"]', "is not JSON: "),
        (b'{"type": "comment"} {}', "is not JSON: "),
        (b'{"type": 5, broken', "is not JSON: "),
        (b'{"specversion": "1.0", broken', "is not JSON: "),
        (b"\xff\xfe", "is not UTF-8 (byte 0)"),
        (b'{"type": "\xff"}', "is not UTF-8 (byte 10)"),
        (b'{"type": 5, "source": "\xff"}', "is not UTF-8 (byte 23)"),
        (b'{"recipients": ["\\ud800"]}', "holds half of a surrogate pair (such as \\ud800), which is not text"),
    ],
)
def test_what_is_not_json_says_so(raw: bytes, message: str) -> None:
    (said,) = errors_of(raw).items()
    assert said[0] == ""
    assert said[1].startswith(message)


def test_a_number_out_of_range() -> None:
    assert errors_of(b'{"type": "a", "recipients": ["b"], "data": {"n": 1e999}}') == {
        "": "holds a number that is out of range"
    }


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 10**30, 10**4000])
def test_an_integer_of_any_size_keeps_its_digits(number: int) -> None:
    def of(value: int) -> Event:
        return read_event(b'{"type": "a", "recipients": ["b"], "data": {"n": %d}}' % value)

    assert of(number).data == {"n": number}
    assert body_hash(of(number)) == body_hash(of(number))
    assert body_hash(of(number)) != body_hash(of(number + 1))


@pytest.mark.parametrize("field", ["send_at", "expires_at"])
@pytest.mark.parametrize(
    "at",
    [
        "0001-01-01T00:00:00+01:00",
        "1969-12-31T23:59:59Z",
        "9999-01-01T00:00:00Z",
        "9999-12-31T23:59:59-01:00",
    ],
)
def test_an_instant_that_not_everybody_can_hold_is_refused(field: str, at: str) -> None:
    """PostgreSQL would keep it, and Python could not read it back in every time zone."""
    assert errors(**{field: at}) == {field: "must lie between the years 1970 and 9998"}


def test_the_first_and_the_last_instant_pass() -> None:
    event = read(send_at="1970-01-01T00:00:00Z", expires_at="9998-12-31T23:59:59Z")
    assert (event.send_at, event.expires_at) == (
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC),
    )


@pytest.mark.parametrize("at", ["2030-01-01T00:00:00Z", "2029-12-31T23:59:59Z", "2030-01-01T00:30:00+01:00"])
def test_what_is_no_news_when_it_is_due_is_refused(at: str) -> None:
    assert errors(send_at="2030-01-01T00:00:00Z", expires_at=at) == {
        "expires_at": "must be later than send_at: as it is, nobody would be told"
    }


def test_it_may_be_news_for_a_moment() -> None:
    assert read(send_at="2030-01-01T00:00:00Z", expires_at="2030-01-01T00:00:00.000001Z").expires_at


def test_size() -> None:
    def of(size: int) -> bytes:
        frame = b'{"type":"a","recipients":["b"],"data":{"x":"%s"}}'
        return frame % (b"x" * (size - len(frame) + 2))

    assert len(of(MAX_EVENT_BYTES)) == MAX_EVENT_BYTES
    assert read_event(of(MAX_EVENT_BYTES)).type == "a"
    assert errors_of(of(MAX_EVENT_BYTES + 1)) == {"": "is 65,537 bytes long; the limit is 65,536"}


@pytest.mark.parametrize("start", [b'{"type":"a",', b'{"type":5,', b'{"specversion":"1.0",', b'{"x":"\\u0000",'])
@pytest.mark.parametrize("depth", [1_000, 10_000, 30_000])
def test_deep_nesting_is_an_error_of_the_event(start: bytes, depth: int) -> None:
    raw = start + b'"recipients":["b"],"data":{"a":' + b"[" * depth + b"]" * depth + b"}}"
    assert "is nested too deeply" in errors_of(raw).values()


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (rb'{"type":"a","recipients":["b"],"data":{"t":"x\u0000y"}}', "data.t"),
        (rb'{"type":"a","recipients":["b"],"data":{"t":[1,{"u":"\u0000"}]}}', "data.t[1].u"),
        (rb'{"type":"a","recipients":["b"],"data":{"a\u0000":1}}', "data"),
        (rb'{"type":"a","recipients":["b"],"group_key":"\u0000"}', "group_key"),
        (rb'{"type":"a","recipients":["b"],"source":"\u0000"}', "source"),
        (rb'{"type":"a\u0000","recipients":["b"]}', "type"),
    ],
)
def test_a_nul_character_is_found_wherever_it_hides(raw: bytes, where: str) -> None:
    """PostgreSQL cannot store one, neither in text nor in jsonb."""
    assert errors_of(raw) == {where: "contains a NUL character"}


def test_a_backslash_before_u0000_is_only_a_backslash() -> None:
    assert read(data={"t": "\\u0000"}).data == {"t": "\\u0000"}


def test_no_error_repeats_a_nul_character() -> None:
    """Errors are stored as well."""
    found = errors_of(rb'{"type":"a","recipients":["b"],"\u0000":1}')
    assert not any("\0" in field + message for field, message in found.items())


def test_a_cloud_event() -> None:
    event = read_event(
        cloud(
            data={"orderId": "9"},
            actor="bob",
            groupkey="order-9",
            importance="high",
            sendat="2030-01-01T00:00:00Z",
            expiresat="2031-01-01T00:00:00Z",
            time="2026-01-01T00:00:00Z",
            datacontenttype="application/json",
            traceparent="00-x",
        )
    )
    assert (event.id, event.type, event.recipients, event.source) == ("/shop#7", "order", ["ada"], "/shop")
    assert (event.data, event.actor, event.group_key, event.importance) == (
        {"orderId": "9"},
        "bob",
        "order-9",
        "high",
    )
    assert event.send_at == datetime(2030, 1, 1, tzinfo=UTC)
    assert event.expires_at == datetime(2031, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", ["id", "source", "type", "subject"])
@pytest.mark.parametrize("value", [..., ""])
def test_what_a_cloud_event_must_have(name: str, value: object) -> None:
    assert errors_of(cloud(**{name: value})) == {name: "is required in a CloudEvent"}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"data_base64": "eA=="}, "data_base64"),
        ({"data": "text"}, "data"),
        ({"subject": 7}, "subject"),
        ({"groupkey": 5}, "groupkey"),
        ({"sendat": "x"}, "sendat"),
        ({"expiresat": 1}, "expiresat"),
        ({"id": "x" * 255}, "source and id"),
        ({"importance": "x"}, "importance"),
        ({"source": "x" * 256}, "source"),
    ],
)
def test_a_wrong_cloud_event_by_its_own_names(changes: dict[str, Any], where: str) -> None:
    assert where in errors_of(cloud(**changes))


def test_two_sources_may_use_the_same_id() -> None:
    assert read_event(cloud(source="/a")).id != read_event(cloud(source="/b")).id


def test_data_that_speaks_of_specversion_is_no_cloud_event() -> None:
    assert read(data={"specversion": "1.0"}).data == {"specversion": "1.0"}


def test_the_hash_tells_bodies_apart_and_not_spellings() -> None:
    one = read_event(b'{"id":"1","type":"a","recipients":["b"],"data":{"x":1,"y":2}}')
    spelled = read_event(b'{ "data": {"y": 2, "x": 1}, "recipients": ["b", "b"], "type": "\\u0061", "id": "2" }')
    assert body_hash(one) == body_hash(spelled)
    for changes in ({"data": {"x": 2}}, {"recipients": ["c"]}, {"actor": "d"}, {"group_key": "e"}):
        assert body_hash(read()) != body_hash(read(**changes))


def test_an_error_seen_from_outside() -> None:
    assert FieldError("data.url", "x").below("events[3]") == FieldError("events[3].data.url", "x")
    assert FieldError("", "x").below("events[3]") == FieldError("events[3]", "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([*Event.__struct_fields__, *CLOUD, "groupkey", "sendat", "expiresat", "data_base64"])


@given(st.binary(max_size=300))
@example(b'{"type":5,')
def test_any_bytes_are_an_event_or_invalid(raw: bytes) -> None:
    check(raw)


@given(
    st.dictionaries(FIELDS | st.text(max_size=8), JSON | st.sampled_from(list(CLOUD.values())), max_size=8),
    st.data(),
)
def test_any_json_is_an_event_or_invalid(document: dict[str, Any], data: st.DataObject) -> None:
    """Also when it is cut off, or a byte of it is another."""
    raw = bytearray(json.dumps(document).encode())
    check(bytes(raw))
    at = data.draw(st.integers(0, len(raw) - 1))
    check(bytes(raw[:at]))
    raw[at] = data.draw(st.integers(0, 255))
    check(bytes(raw))


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(Event.__struct_fields__, JSON)), JSON)
def test_almost_an_event_is_an_event_or_invalid(changes: dict[str, Any], data: Any) -> None:
    check(json.dumps(LEAST | changes).encode())
    check(json.dumps(LEAST | {"data": {"x": data}}).encode())
    check(json.dumps(CLOUD | changes).encode())


def check(raw: bytes) -> None:
    try:
        event = read_event(raw)
        body_hash(event)
    except InvalidEvent as error:
        said = [found.field + found.message for found in error.errors]
    else:
        said = [str(event.id)]
    assert said
    assert not any("\0" in text for text in said)


def test_every_wrong_recipient_is_named_up_to_twenty() -> None:
    assert errors(recipients=["", "ada", "x\n", 5]) == {
        "recipients[0]": "expected text of length >= 1",
        "recipients[2]": "must not contain control characters",
        "recipients[3]": "expected text, got a number",
    }
    assert list(errors(recipients=["ada", *[""] * 999])) == [f"recipients[{n}]" for n in range(1, 21)]


def test_what_is_wrong_inside_an_audience_is_named() -> None:
    assert errors(recipients={"topics": "news", "all": "yes"}) == {
        "recipients.topics": "is not a known field; did you mean 'topic'?",
        "recipients.all": "expected true or false, got text",
    }
