"""Delivery and its attempts: states, what a channel is given, and the outcomes it may report.

    held ─ its time has come ─▶ as pending; or it goes out with another delivery's digest ─▶ digested
    pending ─claim─▶ sending ─ Sent ────▶ sent
       ▲ │              ├─ Later ───▶ retrying ─claim─▶ …   at next_attempt_at; schedule spent ─▶ dead
       │ │              ├─ Unknown ─▶ retrying              the provider may have it: a possible duplicate, counted
       │ │              ├─ Away ────▶ retrying              nothing was tried: the attempt does not count
       │ │              ├─ Never ───▶ failed(reason)        repeating it cannot help
       │ │              ├─ Gone ────▶ failed(reason)        and the address is taken off the list
       │ │              └─ no word before the lease ended ─▶ as Unknown: the process died, or was too late
       │ ├─ opted out, read, no address, expired ─▶ suppressed(reason), expired: decided before sending
       │ ├─ not at this hour ─▶ held(reason)
       └─ next_attempt_at passed: its message was lost, and the clock sends it again

A held delivery's `reason` says what it waits for: unread (so long without being read), digest, quiet_hours. What
it was is looked at when it is claimed, not before. A digest is carried by one of its deliveries, and `digest_id`
names that one on all of them (workers/digests.py).

The web channel needs no claim, because saying the same twice is shown once: pending ─▶ sent in one step.
`next_attempt_at` is when something happens next: a message counts as lost, a try is due, a lease ends, a held
delivery's time comes.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

HELD, PENDING, SENDING, RETRYING = "held", "pending", "sending", "retrying"
SENT, FAILED, DEAD, SUPPRESSED, EXPIRED = "sent", "failed", "dead", "suppressed", "expired"
DIGESTED = "digested"
OPEN = (HELD, PENDING, SENDING, RETRYING)
FINAL = (SENT, DIGESTED, FAILED, DEAD, SUPPRESSED, EXPIRED)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What a digest says of one notification."""

    type: str
    category: str
    title: str
    message: str
    action_url: str | None
    actor: str | None
    created_at: datetime


class Digest(msgspec.Struct, frozen=True):
    """`lines`: the first of its notifications, in the order in which they came; `total`: how many there are.
    `categories`: of all of them."""

    lines: tuple[Line, ...]
    total: int
    categories: frozenset[str]


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery as a channel is given it: to whom, where, and what. It stays in the process that sends it.

    address   an email address, an FCM token or installation id, a push service's endpoint
    device    whose address it is, by `devices.id`; None for email
    kind      devices.kind; "" for email
    keys      web push: {"p256dh": …, "auth": …}
    unread    the inbox's count now, for a badge
    group     the group's id, when the notification is a member of one or its row; `count` its size, else 1
    grouped   title, message and link are the group's
    replaces  members that were told of by themselves before the group formed
    digest    what goes out together with this one; then title, message and link are the digest's
    """

    delivery: UUID
    attempt: int
    notification: UUID
    user: str
    address: str
    device: UUID | None = None
    kind: str = ""
    keys: dict[str, str] | None = None
    type: str
    category: str
    importance: str
    title: str
    message: str
    action_url: str | None
    data: dict[str, Any]
    actor: str | None = None
    created_at: datetime
    expires_at: datetime | None = None
    unread: int = 0
    group: UUID | None = None
    grouped: bool = False
    count: int = 1
    replaces: tuple[UUID, ...] = ()
    locale: str | None = None
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """Taken by the provider; `receipt` is the provider's own id for it, when it gives one. `said`: what was odd
    about its yes."""

    receipt: str | None = None
    said: str = ""


@dataclass(frozen=True, slots=True)
class Later:
    """Not now; what was wrong is about this delivery alone. Tried again after the channel's schedule, and not
    before `wait` seconds. `said`: the provider's words, for people who look; never logged. `answered`: whether the
    provider said so; several batches in a row without any answer mean that it is away."""

    reason: str
    said: str = ""
    wait: float = 0
    answered: bool = True


@dataclass(frozen=True, slots=True)
class Unknown:
    """The provider was told and its answer never came: it may have been sent. Tried again like Later."""

    reason: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class Away:
    """The provider takes nothing at the moment, from anybody: it is away, refuses our credentials, or a quota is
    spent. This one was not sent, the try does not count, and the whole channel pauses, for at least `wait`
    seconds."""

    reason: str
    said: str = ""
    wait: float = 0


@dataclass(frozen=True, slots=True)
class Never:
    """Not ever: repeating it cannot help."""

    reason: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class Gone:
    """Not ever, to this address: nobody is there any more."""

    reason: str
    said: str = ""


Outcome = Sent | Later | Unknown | Away | Never | Gone
