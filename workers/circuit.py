"""What a process knows of a channel's provider: whether it takes anything, and how much at a time.

    closed ─ Away, or three batches in a row without an answer ─▶ open     nothing is sent, no try is spent
      ▲                                                            │ after 5 s, doubled each time, up to 60
      │                                                            ▼
      └─ ramp: 10 a second, doubled every 5 s, for 40 s ◀─ answer ─ probing  one delivery alone

Each process learns for itself: one probe from each a minute is no burden, and there is nothing to share. Safe to
use from several threads.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence

from schema.delivery import Away, Gone, Later, Never, Outcome, Sent
from workers import log

SHORTEST, LONGEST = 5.0, 60.0
"""Seconds of the first pause, and of the longest; a provider that asks for more gets more."""
MUTE = 3
"""Batches in a row of which nothing was answered."""
RAMP_SECONDS, RAMP_BEGIN, RAMP_DOUBLING = 40.0, 10.0, 5.0
PROBE_SECONDS = 60.0
"""A probe nobody told the end of counts as failed."""
PROBED = 2.0
"""Seconds after which its end is worth asking for: it may be that nobody wanted what it was to send."""


class Circuit:
    def __init__(self, channel: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._channel, self._clock = channel, clock
        self._lock = threading.Lock()
        self._open_until: float | None = None
        self._prober: int | None = None
        self._probing_until = 0.0
        self._pause = 0.0
        self._mute = 0
        self._ramp_since: float | None = None
        self._ramped = 0.0

    def room(self, most: int) -> int:
        """How many deliveries this thread may send now, of `most`. If any, it must tell `hear` their outcomes."""
        with self._lock:
            now = self._clock()
            if self._open_until is not None:
                if now < max(self._open_until, self._probing_until):
                    return 0
                self._prober, self._probing_until = threading.get_ident(), now + PROBE_SECONDS
                return 1
            if self._ramp_since is None:
                return most
            passed = now - self._ramp_since
            if passed >= RAMP_SECONDS:
                self._ramp_since = None
                return most
            room = max(0, min(most, int(_ramp(passed) - self._ramped)))
            self._ramped += room
            return room

    def wait(self) -> float:
        """Seconds until it is worth asking for room again."""
        with self._lock:
            if self._open_until is None:
                return 1.0
            now = self._clock()
            return max(1.0, self._open_until - now, min(PROBED, self._probing_until - now))

    def hear(self, outcomes: Sequence[Outcome], unused: int = 0) -> None:
        """What became of deliveries that this thread was given room for; `unused`: how many of them were not sent
        at all, because nobody wants them any more. That says nothing of the provider, and the next ones may have
        their room. While it is open only the probe closes it: others began before."""
        with self._lock:
            self._ramped -= unused
            probe = self._open_until is not None and self._prober == threading.get_ident()
            if probe:
                self._prober, self._probing_until = None, 0.0
            if not outcomes:
                return
            answered = any(_answered(outcome) for outcome in outcomes)
            away = [outcome for outcome in outcomes if isinstance(outcome, Away)]
            self._mute = 0 if answered else self._mute + 1
            if away:
                self._open(max(outcome.wait for outcome in away), away[0].reason, probe)
            elif self._mute >= MUTE or (probe and not answered):
                self._open(0, "no answer", probe)
            elif probe:
                self._close()

    def _open(self, wait: float, reason: str, probe: bool) -> None:
        now = self._clock()
        if self._open_until is not None and not probe:
            self._open_until = max(self._open_until, now + wait)
            return
        self._pause = min(LONGEST, self._pause * 2 or SHORTEST)
        seconds = max(wait, self._pause * random.uniform(0.8, 1.2))  # noqa: S311  (spreads load, guards nothing)
        self._open_until, self._ramp_since = now + seconds, None
        log.logger().warning("provider_away", channel=self._channel, reason=reason, pause=round(seconds, 1))

    def _close(self) -> None:
        self._open_until, self._pause, self._mute = None, 0.0, 0
        self._ramp_since, self._ramped = self._clock(), 0.0
        log.logger().info("provider_is_back", channel=self._channel)


def _answered(outcome: Outcome) -> bool:
    """Whether the provider is there, and does its work."""
    return isinstance(outcome, Sent | Never | Gone) or (isinstance(outcome, Later) and outcome.answered)


def _ramp(seconds: float) -> float:
    """Deliveries allowed in all since the ramp began: the doubling rate, added up second by second."""
    whole = int(seconds)
    rates = (RAMP_BEGIN * 2 ** (second / RAMP_DOUBLING) for second in range(whole + 1))
    return sum(rates)
