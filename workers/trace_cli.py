"""`tocsin trace`: what became of an event, as a table per recipient."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from workers.tables import age, table
from workers.terminal import connect, day, fail, one_line_errors, out, plain

if TYPE_CHECKING:
    from workers.timeline import Attempt, DeliveryTimeline, EventTimeline, NotificationTimeline

Line = tuple[datetime, str, str, str]
"""When, on which channel, what, and the provider's words."""


def trace(
    event_id: Annotated[str, typer.Argument(help="the event's id", show_default=False)],
    user: Annotated[str | None, typer.Option(help="only this recipient")] = None,
    limit: Annotated[int, typer.Option(help="recipients at most", min=1, max=1000)] = 50,
    skip: Annotated[int, typer.Option(help="recipients to leave out", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """What became of an event, from its door to every provider's answer."""
    import msgspec

    from workers import timeline

    with one_line_errors():
        known = event_id.encode(errors="replace").decode()  # a shell may hand over what is no text
        with connect() as connection:
            event = timeline.of_event(connection, known, user, skip, limit)
        if event is None:
            fail(
                f"nobody knows an event {event_id[:80]!r}: it was not accepted, waits in the stream, or is pruned"
            )
        elif as_json:
            typer.echo(msgspec.json.encode(event).decode())
        else:
            show(event, user)


def show(event: "EventTimeline", user: str | None) -> None:
    source = f" from {plain(event.source)}" if event.source else ""
    began = event.accepted_at or event.created_at
    kind = plain(event.type) or "of an unknown type"
    out.print(f"event {plain(event.id)}: {kind}, through the {event.door} door{source}", soft_wrap=True)
    out.print(f"{day(began)} UTC: it {plain(event.says)}", soft_wrap=True)
    for one in event.notifications:
        out.print(f"\n[bold]{plain(one.user)}[/bold] {one.id}", soft_wrap=True)
        out.print(plain(one.says), soft_wrap=True)
        if lines := sorted(told(one)):
            out.print(as_table(lines, began))
    if user and event.accepted_at and not event.notifications:
        yet = ", or it is not written for it yet" if event.audience and event.state == "routing" else ""
        out.print(f"\n{plain(user)} is none of its recipients{yet}", soft_wrap=True)
    if event.next:
        out.print(f"\n{event.recipients - event.next:,} more: --skip {event.next}")


def as_table(lines: Sequence[Line], began: datetime) -> Table:
    now = datetime.now(UTC)
    cells = []
    for at, channel, what, said in lines:
        passed = (at - began).total_seconds()  # below 0 by some microseconds: a notification's time has none
        cells.append([after(max(0.0, passed)), channel, what, said])
    for (at, *_), row in zip(lines, cells, strict=True):
        if at > now:
            row[0] = f"in {age((at - now).total_seconds())}"
    made = table("after", ["channel", "what", "said"], cells)
    made.columns[0].no_wrap = made.columns[1].no_wrap = True
    return made


def told(one: "NotificationTimeline") -> list[Line]:
    """Everything that is known of a notification, each with its time."""
    lines: list[Line] = []
    if one.created_at:
        lines += [(one.created_at, channel, f"closed: {why}", "") for channel, why in one.closed.items()]
    for at, what in ((one.read_at, "read"), (one.clicked_at, "clicked"), (one.archived_at, "archived")):
        if at:
            lines.append((at, "", what, ""))
    for delivery in one.deliveries:
        lines += of_delivery(delivery)
    return lines


def of_delivery(delivery: "DeliveryTimeline") -> list[Line]:
    lines = [of_attempt(delivery.channel, attempt) for attempt in delivery.attempts]
    reason = f": {plain(delivery.reason)}" if delivery.reason else ""
    receipt = f", receipt {plain(delivery.receipt)}" if delivery.receipt else ""
    if delivery.state == "digested":
        carrier = f"event {plain(delivery.digest_event)}" if delivery.digest_event else "one that is pruned"
        reason = f", with {carrier}"
    elif delivery.settled_at and delivery.digest_id == delivery.id:
        reason += ", as a digest"
    if delivery.settled_at:
        lines.append((delivery.settled_at, delivery.channel, f"{delivery.state}{reason}{receipt}", ""))
    elif delivery.next_attempt_at:
        coming = {"sending": "lease ends", "retrying": "next try", "held": "looked at again"}.get(
            delivery.state, "sent again, if not sent by then"
        )
        lines.append((delivery.next_attempt_at, delivery.channel, f"{delivery.state}{reason}; {coming}", ""))
    return lines


def of_attempt(channel: str, attempt: "Attempt") -> Line:
    reason = f": {plain(attempt.reason)}" if attempt.reason else ""
    took = f", took {after((attempt.ended_at - attempt.started_at).total_seconds())}" if attempt.ended_at else ""
    return (
        attempt.started_at,
        channel,
        f"try {attempt.number}: {attempt.outcome}{reason}{took}",
        plain(attempt.said),
    )


def after(seconds: float) -> str:
    """12 ms, 3.4 s, 5 min."""
    return f"{1000 * seconds:.0f} ms" if abs(seconds) < 1 else age(seconds)
