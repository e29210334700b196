"""How long to wait after a try that failed."""

import random
from collections.abc import Sequence


def backoff(schedule: Sequence[float], failed: int) -> float:
    """Seconds to wait after the try that followed `failed` earlier ones: the schedule's entry, ± 20 %."""
    return schedule[failed] * random.uniform(0.8, 1.2)  # noqa: S311  (spreads load, guards nothing)
