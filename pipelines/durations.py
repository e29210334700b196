"""Durations as people write them, in type.toml and in preferences: a number and s, m, h or d, like 15m."""

import re
from datetime import timedelta

PATTERN = "[1-9][0-9]{0,4}[smhd]"
EXPECTED = 'expected a duration such as "90s", "15m", "1h" or "7d"'
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SIZES = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def read(text: str) -> timedelta:
    """Raises ValueError for what is none."""
    if not re.fullmatch(PATTERN, text):
        raise ValueError(EXPECTED)
    return timedelta(**{_UNITS[text[-1]]: int(text[:-1])})


def written(duration: timedelta) -> str:
    """In the largest unit of which it is a whole number."""
    seconds = int(duration.total_seconds())
    size, unit = next((size, unit) for size, unit in _SIZES if seconds % size == 0)
    return f"{seconds // size}{unit}"
