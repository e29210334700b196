"""The channel of mobile push: Firebase Cloud Messaging through firebase-admin, one POST for each device.

Nothing is sent twice here: the library's retries are off. It is imported with the first batch.
"""

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines import push
from pipelines.stage import Resources
from schema.delivery import Away, Never, Outcome, Parcel, Sent, Unknown
from schema.errors import TocsinError
from workers import log
from workers.settings import settings

if TYPE_CHECKING:
    from workers.providers.firebase import Firebase

NAME = "fcm"
SERVES = "push"
SCHEDULE = (15, 60, 300, 1800, 3600)
BATCH = 100
AT_ONCE = 2
LEASE = 25


def ready() -> bool:
    """Whether TOCSIN_FCM_CREDENTIALS names a service account. Its file is read by the process that sends."""
    return bool(settings().fcm_credentials)


def send(parcels: Sequence[Parcel], _use: Resources) -> list[Outcome]:
    """One outcome for each, in order, well within LEASE. Once FCM takes nothing from anybody, the rest of the
    batch is not tried."""
    if not parcels:
        return []
    begun = time.monotonic()
    try:
        from workers.providers import posting
        from workers.providers.firebase import firebase

        provider = firebase()
    except ImportError:
        return _unusable(parcels, "firebase-admin is not installed: run `pip install 'tocsin[push]'`")
    except TocsinError as error:
        return _unusable(parcels, str(error))
    if away := provider.authorize():
        return [away for _ in parcels]
    now, stopped = datetime.now(UTC), list[Away]()

    def one(parcel: Parcel) -> Outcome:
        if stopped:
            return stopped[0]
        outcome = _send(provider, parcel, now)
        if isinstance(outcome, Away):
            stopped.append(outcome)
        return outcome

    outcomes: list[Outcome] = posting.together(
        parcels,
        one,
        until=begun + posting.BATCH_SECONDS,
        unfinished=Unknown(posting.TIMEOUT),
        untried=Away("slow"),
        broken=Unknown("internal_error"),
    )
    return _in_view_of_all(provider, outcomes)


def close() -> None:
    """Ends the connections, for the end of a process. The next send opens new ones."""
    if opened := sys.modules.get("workers.providers.firebase"):
        opened.close()


def _unusable(parcels: Sequence[Parcel], why: str) -> list[Outcome]:
    """They wait until somebody has put it right."""
    log.logger().error("fcm_cannot_be_used", error=why)
    return [Away("not_configured", why) for _ in parcels]


def _send(provider: "Firebase", parcel: Parcel, now: datetime) -> Outcome:
    from google.auth.exceptions import GoogleAuthError

    from workers.providers import fcm_answers

    message = _message(parcel, now)
    try:
        name = provider.post(message)
    except GoogleAuthError:
        return Away("oauth_unreachable")  # the token ended during the batch, and there was no other
    except Exception as error:  # the library raises KeyError and worse for odd answers
        answer = provider.answer()
        outcome = fcm_answers.judge_error(error) if answer is None else fcm_answers.judge(answer)
        if isinstance(outcome, Away) and outcome.reason == fcm_answers.UNAUTHENTICATED:
            provider.forget_token()
        return outcome
    return Sent(name) if isinstance(name, str) and name else Sent(said=fcm_answers.MALFORMED)


def _message(parcel: Parcel, now: datetime) -> object:
    """pipelines/push.py's message, in the library's classes, which look at it when it is sent."""
    from firebase_admin import messaging  # type: ignore[import-untyped]

    says = push.fcm_message(parcel, now)
    android, apns = says["android"], says["apns"]
    aps = apns["payload"]["aps"]
    message = messaging.Message(
        notification=messaging.Notification(**says["notification"]),
        data=says["data"],
        android=messaging.AndroidConfig(
            collapse_key=android["collapse_key"],
            priority=android["priority"],
            ttl=int(android["ttl"].rstrip("s")) if "ttl" in android else None,
            notification=messaging.AndroidNotification(**android["notification"]),
        ),
        apns=messaging.APNSConfig(
            headers=apns["headers"],
            payload=messaging.APNSPayload(
                messaging.Aps(badge=aps["badge"], sound=aps.get("sound"), thread_id=aps["thread-id"])
            ),
        ),
    )
    # Assigned, since Message(token=…) warns that tokens are the past; so they are, and in use for years.
    if parcel.kind == "fcm_installation":
        message.fid = parcel.address
    else:
        message.token = parcel.address
    return message


def _in_view_of_all(provider: "Firebase", outcomes: list[Outcome]) -> list[Outcome]:
    """What many are told at once is about us, not about their devices: a service account of another project. Then
    nothing fails; it waits. While the project is wrong, a single one waits too."""
    from workers.providers.fcm_answers import MISMATCH

    sent = any(isinstance(outcome, Sent) for outcome in outcomes)
    strangers = sum(isinstance(outcome, Never) and outcome.reason == MISMATCH for outcome in outcomes)
    if strangers >= 3 and strangers > len(outcomes) / 2:
        provider.wrong_project = True
    elif sent:
        provider.wrong_project = False

    def seen(outcome: Outcome) -> Outcome:
        match outcome:
            case Never(reason, said) if reason == MISMATCH and provider.wrong_project:
                return Away(reason, said)
        return outcome

    return [seen(outcome) for outcome in outcomes]
