"""Every format that leaves a process, against tests/contracts/golden/wire/*.json: what is in a queue now was
written by the release before.

When a format changed on purpose, write them anew and read the diff; a change that an older worker cannot read
needs a new VERSION: `WRITE_GOLDEN=1 pytest -n0 tests/contracts/test_wire.py`
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from schema.notification import Notification
from schema.wire import VERSION, Batch, Deliveries, Group, InboxItem, Publication, read, user_channel

GOLDEN = Path(__file__).parent / "golden" / "wire"
ONE, TWO, THREE = (UUID(f"01a3185c-5000-7824-b6b8-db86b2a8b11{digit}") for digit in "123")
AT = datetime(2027, 1, 15, 8, 0, 0, 123000, tzinfo=UTC)

ITEM = InboxItem(
    id=ONE,
    seq=7,
    type="comment",
    category="social",
    importance="normal",
    title="New comment from Bob",
    message="„Hi“ <b>\n",
    data={"postId": 1, "nested": {"some_key": [None, 1.5, "é"]}},
    action_url="/posts/1",
    created_at=AT,
    read=False,
)
GROUPED = msgspec.structs.replace(
    ITEM,
    data={},
    action_url=None,
    read=True,
    read_at=AT,
    clicked_at=AT,
    archived_at=AT,
    group=Group(3, [TWO, THREE]),
)
SAMPLES: dict[str, Any] = {
    "batch": Batch(
        [
            Notification(ONE, "c-1", "comment", "ada", "normal", ("web",), {"email": "muted"}, "comment/post-9"),
            Notification(TWO, "c-1", "comment", "bob", "critical", (), {}),
        ]
    ),
    "deliveries": Deliveries([ONE, TWO]),
    "inbox_item": ITEM,
    "inbox_item_of_a_group": GROUPED,
    "publication": Publication("notification", 12, 3, item=ITEM),
    "publication_of_reading": Publication("read", 13, 2, ids=[ONE, TWO]),
    "publication_of_reading_all": Publication("read", 14, 0),
}
each_sample = pytest.mark.parametrize("name", SAMPLES)


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))


def test_every_format_has_its_golden_file() -> None:
    if os.environ.get("WRITE_GOLDEN"):
        for name, sample in SAMPLES.items():
            found = json.loads(msgspec.json.encode(sample))
            text = json.dumps(found, indent=2, ensure_ascii=False)
            (GOLDEN / f"{name}.json").write_text(f"{text}\n", "utf-8")
    assert {file.stem for file in GOLDEN.glob("*.json")} == set(SAMPLES)


@each_sample
def test_it_is_written_as_it_was(name: str) -> None:
    assert json.loads(msgspec.json.encode(SAMPLES[name])) == golden(name)


@each_sample
def test_what_was_written_is_understood(name: str) -> None:
    raw = json.dumps(golden(name)).encode()
    assert msgspec.json.decode(raw, type=type(SAMPLES[name])) == SAMPLES[name]


@pytest.mark.parametrize("name", ["batch", "deliveries"])
def test_a_message_is_read_from_its_bytes(name: str) -> None:
    raw = json.dumps(golden(name)).encode()
    assert read(raw, type(SAMPLES[name])) == SAMPLES[name]
    assert read(msgspec.Raw(raw), type(SAMPLES[name])) == SAMPLES[name]


@pytest.mark.parametrize("name", ["batch", "deliveries"])
def test_a_newer_version_is_refused_and_what_is_merely_added_is_not(name: str) -> None:
    kind = type(SAMPLES[name])
    added = golden(name) | {"priority": 1}
    for n in added.get("notifications", []):
        n.append("more")
    assert read(json.dumps(added).encode(), kind) == SAMPLES[name]
    with pytest.raises(ValueError, match=f"version {VERSION + 1}, and this worker knows {VERSION}"):
        read(json.dumps(golden(name) | {"v": VERSION + 1}).encode(), kind)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"null", Batch),
        (b"{}", Deliveries),
        (b'{"deliveries": ["not an id"]}', Deliveries),
        (b'{"notifications": [["x"]]}', Batch),
        (b'{"deliveries"', Deliveries),
    ],
)
def test_what_is_no_message_is_refused(raw: bytes, kind: type) -> None:
    with pytest.raises(msgspec.DecodeError):
        read(raw, kind)


def test_the_browser_reads_camel_case_and_utc() -> None:
    shown = golden("inbox_item_of_a_group")
    assert {"actionUrl", "createdAt", "readAt", "clickedAt", "archivedAt"} <= shown.keys()
    assert not any("_" in name for name in shown)
    assert shown["createdAt"] == "2027-01-15T08:00:00.123000Z"
    assert golden("inbox_item")["data"]["nested"].keys() == {"some_key"}, "a producer's keys stay as they are"


def test_a_queue_carries_no_content() -> None:
    """Only what routes: neither text nor data nor address (schema/notification.py)."""
    fields = set(Notification.__struct_fields__) | set(Batch.__struct_fields__) | set(Deliveries.__struct_fields__)
    assert fields == {
        *("id", "event_id", "type", "recipient", "importance", "open", "closed", "window", "timing", "folded"),
        *("notifications", "deliveries", "v"),
    }


def test_the_channel_of_a_user() -> None:
    assert user_channel("a:b é") == "tocsin:user:a:b é"
