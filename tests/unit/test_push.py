"""What a push says, and what goes first when it is too long."""

import json
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import push
from schema.delivery import Parcel

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NOTIFICATION, GROUP, FIRST, SECOND = (UUID(int=number) for number in (1, 2, 3, 4))


def parcel(**changed: Any) -> Parcel:
    usual: dict[str, Any] = {
        "delivery": UUID(int=9),
        "attempt": 1,
        "notification": NOTIFICATION,
        "user": "ada",
        "address": "token",
        "kind": "fcm_token",
        "type": "comment",
        "category": "social",
        "importance": "normal",
        "title": "Bob commented",
        "message": "“Nice!”",
        "action_url": "/posts/1",
        "data": {},
        "created_at": NOW,
        "unread": 3,
    }
    return Parcel(**usual | changed)


def size(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def test_a_message_of_fcm() -> None:
    assert push.fcm_message(parcel(data={"postId": 7, "by": "Bob", "tags": ["a", "é"], "none": None}), NOW) == {
        "notification": {"title": "Bob commented", "body": "“Nice!”"},
        "data": {
            "notificationId": str(NOTIFICATION),
            "type": "comment",
            "actionUrl": "/posts/1",
            "postId": "7",
            "by": "Bob",
            "tags": '["a","é"]',
        },
        "android": {
            "collapse_key": str(NOTIFICATION),
            "priority": "normal",
            "notification": {"tag": str(NOTIFICATION), "channel_id": "social"},
        },
        "apns": {
            "headers": {"apns-collapse-id": str(NOTIFICATION), "apns-priority": "10"},
            "payload": {"aps": {"badge": 3, "thread-id": "comment"}},
        },
    }


def test_a_group_takes_its_members_place() -> None:
    of_group = parcel(group=GROUP, count=5, replaces=(FIRST, SECOND))
    message = push.fcm_message(of_group, NOW)
    assert message["android"]["collapse_key"] == message["android"]["notification"]["tag"] == str(GROUP)
    assert message["apns"]["headers"]["apns-collapse-id"] == str(GROUP)
    assert message["apns"]["payload"]["aps"]["thread-id"] == str(GROUP)
    assert message["data"]["groupId"] == str(GROUP)
    assert message["data"]["count"] == "5"
    assert message["data"]["replaces"] == f"{FIRST},{SECOND}"
    assert push.web_push(of_group)["tag"] == str(GROUP)
    assert push.web_push(of_group)["replaces"] == [str(FIRST), str(SECOND)]
    assert push.topic(of_group) == push.topic(parcel(group=GROUP, notification=FIRST))
    assert push.topic(of_group) != push.topic(parcel())


@pytest.mark.parametrize(
    ("importance", "android", "apns", "sound", "urgency"),
    [
        ("low", "normal", "5", None, "low"),
        ("normal", "normal", "10", None, "normal"),
        ("high", "high", "10", "default", "high"),
        ("critical", "high", "10", "default", "high"),
    ],
)
def test_importance(importance: str, android: str, apns: str, sound: str | None, urgency: str) -> None:
    message = push.fcm_message(parcel(importance=importance), NOW)
    assert message["android"]["priority"] == android
    assert message["apns"]["headers"]["apns-priority"] == apns
    assert message["apns"]["payload"]["aps"].get("sound") == sound
    assert push.URGENCY[importance] == urgency


@pytest.mark.parametrize(
    ("ends", "seconds"), [(timedelta(hours=1), 3600), (timedelta(seconds=-1), 0), (timedelta(days=99), 2_419_200)]
)
def test_it_is_not_kept_longer_than_it_is_news(ends: timedelta, seconds: int) -> None:
    ending = parcel(expires_at=NOW + ends)
    message = push.fcm_message(ending, NOW)
    assert push.ttl(ending, NOW) == seconds
    assert message["android"]["ttl"] == f"{seconds}s"
    assert message["apns"]["headers"]["apns-expiration"] == str(int((NOW + ends).timestamp()))


def test_names_that_belong_to_others_are_left_out() -> None:
    theirs = dict.fromkeys(("from", "message_type", "collapse_key", "aps", "google.c.a.e", "gcm.n.e"), "x")
    ours = {"notificationId": "x", "type": "x", "actionUrl": "x"}
    data = push.fcm_message(parcel(data=theirs | ours | {"kept": True}), NOW)["data"]
    assert data == {
        "notificationId": str(NOTIFICATION),
        "type": "comment",
        "actionUrl": "/posts/1",
        "kept": "true",
    }


def test_what_goes_first_when_it_is_too_long() -> None:
    """Data, the longest first; then the body; then the title; then the link. Ids stay."""
    small_data, large_data = {"a": "1"}, {"b": "x" * 4000}
    message = push.fcm_message(parcel(data=small_data | large_data), NOW)
    assert message["data"]["a"] == "1"
    assert "b" not in message["data"]
    assert message["notification"]["body"] == "“Nice!”"

    message = push.fcm_message(parcel(data=small_data, message="m" * 5000), NOW)
    assert "a" not in message["data"]
    assert message["notification"]["body"].endswith("m…")
    assert message["notification"]["title"] == "Bob commented"
    assert size(message) == push.FCM_BYTES

    message = push.fcm_message(parcel(title="t" * 5000, message="m" * 5000), NOW)
    assert message["notification"]["body"] == ""
    assert message["notification"]["title"].endswith("t…")
    assert message["data"]["actionUrl"] == "/posts/1"

    message = push.fcm_message(parcel(title="t" * 5000, message="m" * 5000, action_url="/" + "u" * 5000), NOW)
    assert message["notification"] == {"title": "", "body": ""}
    assert message["data"] == {"notificationId": str(NOTIFICATION), "type": "comment"}

    pushed = push.web_push(parcel(title="t", message="m" * 5000))
    assert size(pushed) == push.WEB_PUSH_BYTES
    assert pushed["title"] == "t"


def test_what_fits_is_not_touched() -> None:
    room = push.FCM_BYTES - size(push.fcm_message(parcel(message=""), NOW))
    assert push.fcm_message(parcel(message="m" * room), NOW)["notification"]["body"] == "m" * room
    assert push.fcm_message(parcel(message="m" * (room + 1)), NOW)["notification"]["body"] == (
        "m" * (room - 3) + "…"
    )


FAMILY, FLAG, THUMB, ACCENT, WALES, HEART = (
    "👩‍👩‍👧‍👦",
    "🇦🇹",
    "👍🏽",
    "é",
    "\U0001f3f4\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f",
    "❤️",
)


@pytest.mark.parametrize("char", [FAMILY, FLAG, THUMB, ACCENT, WALES, HEART, "😀", "ß", '"', "\n", "\\"])
@pytest.mark.parametrize("before", range(8))
def test_no_character_is_torn(char: str, before: int) -> None:
    text = "x" * before + char * 40
    for excess in range(1, size(text) - 8):
        cut = push.shortened(text, excess)
        assert size(cut) <= size(text) - excess
        kept = cut.removesuffix("…")
        assert kept == "x" * len(kept) or kept.rstrip() == ("x" * before + char * kept.count(char)).rstrip()


@given(st.text(max_size=300), st.integers(1, 400))
def test_it_is_as_much_shorter_as_was_asked(text: str, excess: int) -> None:
    cut = push.shortened(text, excess)
    assert cut == "" or size(cut) <= size(text) - excess
    assert text.startswith(cut.removesuffix("…").rstrip())


strings = st.text(st.characters(exclude_categories=("Cs",)), max_size=6000)


@given(
    strings, strings, st.dictionaries(st.text(max_size=20), strings | st.integers() | st.booleans(), max_size=5)
)
def test_it_is_never_too_long(title: str, message: str, data: dict[str, Any]) -> None:
    one = parcel(title=title, message=message, data=data, group=GROUP, replaces=(FIRST, SECOND))
    said = push.fcm_message(one, NOW)
    assert size(said) <= push.FCM_BYTES
    assert said["data"]["notificationId"] == str(NOTIFICATION)
    assert said["data"]["groupId"] == str(GROUP)
    assert all(isinstance(value, str) for value in said["data"].values())
    pushed = push.web_push(one)
    assert size(pushed) <= push.WEB_PUSH_BYTES
    assert pushed["notificationId"] == str(NOTIFICATION)


def test_a_lone_surrogate_does_not_stop_it() -> None:
    """No text of Postgres has one; a channel that raises would take its batch with it."""
    assert push.encoded(push.web_push(parcel(message="\ud83d")))


def test_accents_alone_leave_nothing() -> None:
    assert unicodedata.category("\u0301") == "Mn"
    assert push.shortened("e" + "\u0301" * 500, 10) == ""


def test_our_names_are_ours_also_where_there_is_nothing_to_say() -> None:
    """An application trusts them: a link in them was checked."""
    theirs = {"actionUrl": "javascript:1", "groupId": "7", "count": 7, "replaces": "a", "postId": "9"}
    data = push.fcm_message(parcel(data=theirs, action_url=None), NOW)["data"]
    assert data.keys() == {"notificationId", "type", "postId"}
