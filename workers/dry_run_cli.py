"""`tocsin send --dry-run`: what would become of events, as a table each."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import typer

from schema.errors import TocsinError
from schema.event import MAX_EVENTS
from schema.notification import CHANNELS
from workers.sending import checked, cut, post
from workers.tables import table
from workers.terminal import day, out, plain

if TYPE_CHECKING:
    from workers.dry_run import DryEvent, DryRun, Prospect, Told


def tell(numbered: Sequence[tuple[int, bytes]], *, as_json: bool) -> None:
    """Asks the API what would become of (line number, JSON), and prints it. Raises TocsinError."""
    from workers.dry_run import DryRun

    calls = cut(checked(numbered))
    if len(calls) > 1:
        raise TocsinError(f"{len(numbered):,} events are too many for one dry run: it takes up to {MAX_EVENTS}")
    if not calls:
        raise TocsinError("there is no event to tell of")
    events = post(b"[" + b",".join(calls[0]) + b"]", "?dry_run=true")
    if as_json:
        typer.echo(json.dumps({"events": events}))
    else:
        show(msgspec.convert({"events": events}, DryRun))


def show(found: "DryRun") -> None:
    for event in found.events:
        out.print(plain(headline(event)), soft_wrap=True)
        if event.notifications:
            lines = [line(told) for told in event.notifications]
            out.print(table("recipient", ["would read", *CHANNELS], lines))
        if event.recipients > len(event.notifications):
            out.print(f"and {event.recipients - len(event.notifications):,} more")
        out.print()
    out.print("Nothing was stored, sent or counted.")


def headline(event: "DryEvent") -> str:
    if event.status == "duplicate":
        return f"{event.type} {event.id}: a duplicate, of which nothing would come"
    who = "1 recipient" if event.recipients == 1 else f"{event.recipients:,} recipients"
    return f"{event.type} {event.id}: {who}, due {day(event.due)} UTC"


def line(told: "Told") -> list[str]:
    says = told.error or told.title or ""
    if told.group:
        says += f" (in a group of {told.group.count}: {told.group.title})"
    return [plain(told.user), plain(says), *(plain(cell(one)) for one in told.channels)]


def cell(one: "Prospect") -> str:
    """`yes, silently`, `2026-11-24 08:00 UTC: digest` or `no: preference`."""
    if one.outcome == "closed":
        return f"no: {one.reason}"
    if one.outcome == "held" and one.at:
        return f"{one.at:%Y-%m-%d %H:%M} UTC: {one.reason}"
    told = ["yes"]
    if one.timing:
        told.append(one.timing)
    if one.silent:
        told.append("silently")
    if one.addresses > 1:
        told.append(f"{one.addresses} devices")
    return ", ".join(told)
