"""What the reader sees: one table, with what was to be reached beside what was."""

from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text


class Row(NamedTuple):
    """`reach` is the design's number, `verdict` what became of it; empty where there is none."""

    what: str
    here: str
    reach: str = ""
    verdict: str = ""
    note: str = ""


def met(condition: bool) -> str:
    return "✓" if condition else "✗"


def table(sections: list[list[Row]]) -> Table:
    made = Table(title_justify="left", row_styles=["", ""], expand=False)
    for name in ("what", "here", "to reach", ""):
        made.add_column(name, overflow="fold")
    for rows in sections:
        for row in rows:
            colour = {"✓": "green", "✗": "red"}.get(row.verdict[:1], "")
            what = Text.assemble(row.what, (f"\n{row.note}", "dim")) if row.note else row.what
            made.add_row(what, row.here, row.reach, Text(row.verdict, colour))
        made.add_section()
    return made


def show(console: Console, sections: list[list[Row]], machine: str, failed: dict[str, str]) -> None:
    console.print(table(sections))
    console.print(machine, markup=False, highlight=False)
    for name, why in failed.items():
        console.print(f"{name}: {why}", style="red", markup=False)


def ratio(ours: float, theirs: float, at_least: float | None) -> str:
    """How many times theirs ours is; with a mark where there is a number to reach."""
    times = f"{ours / theirs:.2f} ×"
    return times if at_least is None else f"{met(ours >= at_least * theirs)} {times}"


def of(results: dict[str, Any], *path: str) -> Any:
    """A number of another part, or None when that part was not run."""
    found: Any = results
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found
