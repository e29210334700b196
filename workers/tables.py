"""Tables of plain text, as people read them in a terminal."""

from rich.table import Table

NUMBERS = {"waiting", "limit", "depth", "count", "pid", "oldest", "retrying", "dead"}
"""Columns that are set to the right."""


def table(first: str, others: list[str], lines: list[list[str]]) -> Table:
    made = Table(first, box=None, pad_edge=False, header_style="bold")
    for name in others:
        made.add_column(name, justify="right" if name in NUMBERS else "left")
    for line in lines:
        made.add_row(*line)
    return made


def age(seconds: float | None) -> str:
    """Seconds as ops read them: 0.3 s, 12 s, 5 min, 3 h, 2 d."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
