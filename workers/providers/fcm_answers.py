"""What FCM's answers mean (firebase.google.com: `ErrorCode`, error codes, throttling and quotas).

Read from the status and FCM's own error code, not from firebase-admin's exceptions, since an odd answer makes the
library raise odd ones.
"""

from typing import Any

import requests

from schema.delivery import Away, Gone, Later, Never, Outcome, Sent, Unknown
from workers.providers.posting import UNREACHABLE, no_answer, retry_after

SHORTEST_WAIT = 10.0
"""Seconds FCM wants to be left alone after a failure."""
QUOTA_WAIT = 60.0
"""Seconds until a quota is filled again, when FCM does not say."""
MISMATCH, THIRD_PARTY, UNAUTHENTICATED = "sender_id_mismatch", "third_party_auth", "unauthenticated"

MALFORMED = "taken, with an answer that names no message"
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


def judge_error(error: BaseException) -> Outcome:
    """Of what the library raised without an answer of FCM's. What requests raised is in its chain of causes."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, requests.RequestException):
        found = found.__cause__ or found.__context__
    if found is None:
        return Never("invalid_message", str(error)) if isinstance(error, ValueError) else Unknown("internal_error")
    why = no_answer(found)
    return Away(why) if why == UNREACHABLE else Unknown(why)


def judge(response: requests.Response) -> Outcome:
    """Of an answer that names no message, as if it were the only one. Of a 2xx the status counts: FCM took it, and
    a second try would be a second push. But for a page of HTML, which FCM never answers: whatever stands between
    us did, and may have kept the message."""
    status, error = response.status_code, _error(response)
    if status // 100 == 2:
        page = response.content.lstrip()[:1] == b"<"
        return Unknown("html_answer") if page else Sent(said=MALFORMED)
    code, said = _code(error), str(error.get("message", ""))
    after = retry_after(response.headers)
    if code == "UNREGISTERED":
        return Gone("unregistered", said)
    if code == "SENDER_ID_MISMATCH":
        return Never(MISMATCH, said)
    if code in ("THIRD_PARTY_AUTH_ERROR", "APNS_AUTH_ERROR"):
        return Later(THIRD_PARTY, said, SHORTEST_WAIT)
    if status == 429:
        wait = QUOTA_WAIT if after is None else after
        return Later("device_quota", said, wait) if _of_one_device(error) else Away("quota", said, wait)
    if status in (401, 403):
        return Away(UNAUTHENTICATED if status == 401 else "forbidden", said)
    if status == 400 and error:
        return Gone("bad_token", said) if _about_address(error, said) else Never("invalid_argument", said)
    if 400 <= status < 500 and error:
        return Never("not_found" if status == 404 else f"http_{status}", said)
    return Later(f"http_{status}", said, max(SHORTEST_WAIT, after or 0), answered=False)


def _error(response: requests.Response) -> dict[str, Any]:
    """The error object of Google's APIs; empty when something else answered."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {}


def _details(error: dict[str, Any]) -> list[dict[str, Any]]:
    details = error.get("details")
    return [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []


def _code(error: dict[str, Any]) -> str:
    return next((str(one.get("errorCode")) for one in _details(error) if one.get("@type") == _FCM_ERROR), "")


def _violations(error: dict[str, Any], name: str) -> list[dict[str, Any]]:
    lists = [one[name] for one in _details(error) if isinstance(one.get(name), list)]
    return [one for each in lists for one in each if isinstance(one, dict)]


def _about_address(error: dict[str, Any], said: str) -> bool:
    """The field is named, or, of a token, FCM only says so: example 2 of the page on error codes."""
    fields = [str(one.get("field")) for one in _violations(error, "fieldViolations")]
    if fields:
        return all(field in ("message.token", "message.fid") for field in fields)
    return "registration token is not a valid" in said


def _of_one_device(error: dict[str, Any]) -> bool:
    """240 messages a minute to one device are its own limit, and nobody else's."""
    told = (f"{one.get('subject')} {one.get('description')}" for one in _violations(error, "violations"))
    return any("device" in one.lower() for one in told)
