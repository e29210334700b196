"""Delivery and its attempts: states, and the outcomes a channel may report.

    pending ─▶ sent                     the provider (for web: the live publication) took it
       │
       ├─ Later ─▶ retrying ─▶ …        tried again at next_attempt_at; schedule spent ─▶ dead
       ├─ Never ─▶ failed(reason)       final: it will not get better
       └─ nothing heard ─▶ pending      next_attempt_at passed: the clock sends it again

`next_attempt_at` of a pending delivery is when the clock takes its message for lost.
"""

from dataclasses import dataclass

RETRYING, SENT, FAILED, DEAD = "retrying", "sent", "failed", "dead"


@dataclass(frozen=True, slots=True)
class Sent:
    """Taken by the provider; `receipt` is the provider's own id for it, when it gives one."""

    receipt: str | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """Not now: a hiccup, an outage. Tried again after the channel's schedule."""

    reason: str


@dataclass(frozen=True, slots=True)
class Never:
    """Not ever: repeating it cannot help."""

    reason: str


Outcome = Sent | Later | Never
