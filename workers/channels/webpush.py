"""The channel of browsers: Web Push (RFC 8030) through pywebpush, encrypted for each (RFC 8291), signed with our
VAPID key (RFC 8292).

There are as many providers as browsers have push services, so what one of them does concerns its own
subscriptions; only our key concerns all. Redirects, cookies and retries are off. pywebpush is imported with
the first batch.
"""

import sys
import time
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, partial
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipelines import endpoints, push
from pipelines.stage import Resources
from schema.delivery import Away, Gone, Later, Never, Outcome, Parcel, Sent, Unknown
from schema.errors import TocsinError
from workers import log
from workers.settings import settings

if TYPE_CHECKING:
    import requests

NAME = "webpush"
SERVES = "push"
SCHEDULE = (15, 60, 300, 1800, 3600)
BATCH = 100
AT_ONCE = 2
LEASE = 25
SHORTEST_WAIT = 10.0
"""Seconds a push service in trouble is left alone."""
THROTTLED_WAIT = 60.0
"""Seconds to wait after 429 without Retry-After."""

_took: set[str] = set()
"""Origins that have taken a push from this process."""


def ready() -> bool:
    """Whether TOCSIN_VAPID_PRIVATE_KEY is set. It is read by the process that sends."""
    return bool(settings().vapid_private_key.get_secret_value())


def send(parcels: Sequence[Parcel], _use: Resources) -> list[Outcome]:
    """One outcome for each, in order, well within LEASE."""
    if not parcels:
        return []
    begun = time.monotonic()
    try:
        from workers.providers import posting, push_signature

        push_signature.authorization("https://localhost")
    except ImportError:
        return _unusable(parcels, "pywebpush is not installed: run `pip install 'tocsin[push]'`")
    except TocsinError as error:
        return _unusable(parcels, str(error))
    until, slow = begun + posting.BATCH_SECONDS, Later("slow", wait=SHORTEST_WAIT, answered=False)
    hosts = endpoints.listed(settings().push_hosts)
    authorities = list({_authority(one.address) for one in parcels if not endpoints.allowed(one.address, hosts)})
    closed: list[Outcome | None] = posting.together(
        authorities, partial(_closed, hosts=hosts), until=until, unfinished=slow, untried=slow, broken=slow
    )
    closures = dict(zip(authorities, closed, strict=True))
    now = datetime.now(UTC)

    def one(parcel: Parcel) -> Outcome:
        if why := endpoints.allowed(parcel.address, hosts):
            return Gone("endpoint_refused", why)
        return closures[_authority(parcel.address)] or _send(parcel, now)

    outcomes: list[Outcome] = posting.together(
        parcels,
        one,
        until=until,
        unfinished=Unknown(posting.TIMEOUT),
        untried=slow,
        broken=Unknown("internal_error"),
    )
    return [_in_view_of_all(outcome) for outcome in outcomes]


def close() -> None:
    """Ends the connections, for the end of a process. The next send opens new ones, and reads the key anew."""
    if signing := sys.modules.get("workers.providers.push_signature"):
        signing.forget()
    if _session.cache_info().currsize:
        _session().close()
        _session.cache_clear()


@cache
def _session() -> "requests.Session":
    import requests

    from workers.providers import posting

    session = requests.Session()
    posting.harden(session)
    return session


def _unusable(parcels: Sequence[Parcel], why: str) -> list[Outcome]:
    """They wait until somebody has put it right."""
    log.logger().error("webpush_cannot_be_used", error=why)
    return [Away("not_configured", why) for _ in parcels]


def _authority(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _closed(authority: str, hosts: frozenset[str]) -> Outcome | None:
    """Where the name leads now, unless whoever listed it said where. What a resolver says may be wrong for a
    while, so it costs a try and not the subscription."""
    name = urlsplit(f"//{authority}").hostname or ""
    listed = authority in hosts and (":" in authority.rpartition("]")[2] or _is_address(name))
    if listed or settings().development:
        return None
    try:
        why = endpoints.check_resolved(name)
    except OSError:
        return Later("unreachable", "its name cannot be resolved", SHORTEST_WAIT)
    return Later("endpoint_refused", why) if why else None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _send(parcel: Parcel, now: datetime) -> Outcome:
    import requests
    from pywebpush import WebPushException, webpush  # type: ignore[import-untyped]

    from workers.providers import posting, push_signature

    if not _usable(parcel.keys or {}):
        return Gone("bad_keys")
    ttl = push.ttl(parcel, now)
    try:
        answer = webpush(
            {"endpoint": parcel.address, "keys": parcel.keys},
            push.encoded(push.web_push(parcel)),
            headers={
                "Authorization": push_signature.authorization(_origin(parcel)),
                "Urgency": push.URGENCY.get(parcel.importance, "normal"),
                "Topic": push.topic(parcel),
            },
            ttl=push.WEB_PUSH_TTL if ttl is None else ttl,
            timeout=(posting.REACHED_SECONDS, posting.SECONDS),
            requests_session=_session(),
        )
    except requests.RequestException as error:
        if error.response is not None:
            return judge(error.response)
        why = posting.no_answer(error)
        return Later(why, wait=SHORTEST_WAIT, answered=False) if why == posting.UNREACHABLE else Unknown(why)
    except WebPushException as error:
        return Never("cannot_be_encrypted") if error.response is None else judge(error.response)
    except TocsinError as error:
        return Never("cannot_be_signed", str(error))
    _took.add(_origin(parcel))
    return Sent(answer.headers.get("Location"))


def _usable(keys: dict[str, str]) -> bool:
    """Whether a browser can have made them (RFC 8291, section 3)."""
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        point, secret = (urlsafe_b64decode(keys[name] + "==") for name in ("p256dh", "auth"))
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except (KeyError, TypeError, ValueError):
        return False
    return len(point) == 65 and len(secret) == 16


def _origin(parcel: Parcel) -> str:
    """As a signature names whom it is for: without the port that goes without saying."""
    return f"{urlsplit(parcel.address).scheme}://{_authority(parcel.address).removesuffix(':443')}"


def judge(response: "requests.Response") -> Outcome:
    """Of an answer that does not take the push (RFC 8030, sections 5 to 8)."""
    from workers.providers.posting import retry_after

    status, said, after = response.status_code, response.text.strip(), retry_after(response.headers)
    match status:
        case 404 | 410:
            return Gone("unsubscribed", said)
        case 401 | 403:
            return Away("vapid", said)
        case 413:
            return Never("too_large", said)
        case 429:
            return Later("throttled", said, THROTTLED_WAIT if after is None else after)
        case _ if 300 <= status < 400:
            return Never("redirected")
        case _ if 400 <= status < 500 and status != 408:
            return Never(f"http_{status}", said)
    return Later(f"http_{status}", said, max(SHORTEST_WAIT, after or 0))


def _in_view_of_all(outcome: Outcome) -> Outcome:
    """Once any service has taken ours, our key is good: who refuses it now has a subscription made with another
    one, or is no push service at all. That must not stop the channel."""
    if isinstance(outcome, Away) and outcome.reason == "vapid" and _took:
        return Later(outcome.reason, outcome.said)
    return outcome
