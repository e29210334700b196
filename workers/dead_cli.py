"""`tocsin dead`: dead letters in a terminal. What they are says workers/dead.py, what to do workers/redrive.py."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schema.errors import TocsinError
from workers.tables import age, table
from workers.terminal import connect, day, fail, one_line_errors, out, plain
from workers.trace_cli import as_table, of_attempt

if TYPE_CHECKING:
    from workers.dead import DeadDelivery, DeadMessage, Which
    from workers.redrive import Decided

app = typer.Typer(no_args_is_help=True, help="Dead letters: what nothing tries any more.")

Ids = Annotated[list[str] | None, typer.Argument(help="ids from `tocsin dead list`", show_default=False)]
Channel = Annotated[str | None, typer.Option(help="e.g. email; also messages of its queue")]
Type = Annotated[str | None, typer.Option("--type", help="a notification type: deliveries only")]
Reason = Annotated[str | None, typer.Option(help="as `tocsin dead list` shows it")]
Since = Annotated[str | None, typer.Option(help="died since: 2h, 3d ago, or 2026-01-31T09:00:00Z")]
Until = Annotated[str | None, typer.Option(help="died before; written alike")]
All = Annotated[bool, typer.Option("--all", help="everything that the filters leave")]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]
Json = Annotated[bool, typer.Option("--json", help="for programs")]


def chosen(
    channel: str | None, kind: str | None, reason: str | None, since: str | None, until: str | None
) -> "Which":
    from workers.dead import Which, instant

    try:
        began, ended = since and instant(since), until and instant(until)
    except TocsinError as error:
        raise typer.BadParameter(str(error)) from None
    return Which(channel=channel, type=kind, reason=reason, since=began or None, until=ended or None)


@app.command("list")
def list_(
    channel: Channel = None,
    type: Type = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="letters at most", min=1, max=500)] = 50,
    before: Annotated[str | None, typer.Option(help="go on where another list ended")] = None,
    as_json: Json = False,
) -> None:
    """The dead, newest first; without users, content, or anybody's words."""
    import msgspec

    from workers import dead

    with one_line_errors():
        which = chosen(channel, type, reason, since, until)
        with connect() as connection:
            found, following = dead.letters(connection, which, limit, before)
        if as_json:
            typer.echo(msgspec.json.encode({"dead": found, "next": following}).decode())
            return
        if not found:
            out.print("nothing is dead" if which == dead.Which() and not before else "nothing dead fits")
            return
        now = datetime.now(UTC)
        lines = [
            [
                one.id,
                f"{age((now - one.died_at).total_seconds())} ago",
                plain(one.channel or one.queue),
                plain(one.type or one.actor),
                plain(one.reason),
                str(one.tries or "-"),
            ]
            for one in found
        ]
        made = table("id", ["died", "channel", "type", "reason", "tries"], lines)
        for column in made.columns:
            column.overflow = "fold"  # a narrow terminal cuts nothing off: ids are to be copied
        made.columns[0].no_wrap, made.columns[0].min_width = True, max(len(one.id) for one in found)
        out.print(made)
        if following:
            out.print(f"more: --before {following}", soft_wrap=True)


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="an id from `tocsin dead list`", show_default=False)],
    as_json: Json = False,
) -> None:
    """One letter: its tries with the provider's words, or its message and trace."""
    import msgspec

    from workers import dead

    with one_line_errors():
        with connect() as connection:
            found = dead.letter(connection, id)
        if found is None:
            fail(f"no dead letter has the id {id!r}: see `tocsin dead list`")
        elif as_json:
            typer.echo(msgspec.json.encode(found).decode())
        elif isinstance(found, dead.DeadMessage):
            print_message(found)
        else:
            print_delivery(found)


def print_delivery(one: "DeadDelivery") -> None:
    when = f" since {day(one.died_at)} UTC" if one.died_at else ""
    out.print(f"{one.id} is {one.state}{when}: {plain(one.reason) or '-'}", soft_wrap=True)
    out.print(f"{one.type or 'its notification is gone'} over {one.channel}, to {plain(one.user)}")
    out.print(f"event {plain(one.event_id) or '-'}, notification {one.notification_id}", soft_wrap=True)
    if one.attempts:
        out.print(as_table([of_attempt(one.channel, each) for each in one.attempts], one.attempts[0].started_at))


def print_message(one: "DeadMessage") -> None:
    out.print(f"{one.id} is {one.state}, died {day(one.died_at)} UTC")
    out.print(f"queue {plain(one.queue)}, actor {plain(one.actor) or '-'}")
    for text in (one.cause, one.message, one.trace):
        lines = (line.rstrip() for line in text.splitlines())
        out.print("\n".join(plain(line) for line in lines), soft_wrap=True)


@app.command()
def replay(
    ids: Ids = None,
    everything: All = False,
    channel: Channel = None,
    type: Type = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    rate: Annotated[float, typer.Option(help="deliveries a second", min=0.01, max=100_000)] = 50,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Try again: these, or --all that the filters leave. Deliveries become due one after the other."""
    from workers import redrive

    which = decided_on(ids, everything, chosen(channel, type, reason, since, until))
    with one_line_errors(), connect() as connection:
        if everything and not yes:
            ask(connection, which, "Replay")
        report(redrive.replay(connection, which, rate), "replayed", as_json)


@app.command()
def discard(
    ids: Ids = None,
    everything: All = False,
    channel: Channel = None,
    type: Type = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Give up for good: these, or --all that the filters leave."""
    from workers import redrive

    which = decided_on(ids, everything, chosen(channel, type, reason, since, until))
    with one_line_errors(), connect() as connection:
        if everything and not yes:
            ask(connection, which, "Discard")
        report(redrive.discard(connection, which), "discarded", as_json)


@app.command()
def prune(before: Annotated[str, typer.Option(help="older than: 90d, or an instant", show_default=False)]) -> None:
    """Delete messages that were replayed or discarded that long ago. What is dead stays."""
    from workers import redrive
    from workers.dead import instant

    try:
        at = instant(before)
    except TocsinError as error:
        raise typer.BadParameter(str(error)) from None
    with one_line_errors(), connect() as connection:
        typer.echo(f"pruned {redrive.prune(connection, at):,}")


def decided_on(ids: list[str] | None, everything: bool, filters: "Which") -> "Which":
    """Never all by accident."""
    import msgspec

    from workers.dead import Which, split

    if bool(ids) == everything:
        raise typer.BadParameter("give ids, or --all (with filters, if you like)")
    if not ids:
        return filters
    if filters != Which():
        raise typer.BadParameter("filters go with --all, not with ids")
    try:
        split(ids)
    except TocsinError as error:
        raise typer.BadParameter(str(error)) from None
    return msgspec.structs.replace(filters, ids=tuple(ids))


def ask(connection: Any, which: "Which", verb: str) -> None:
    from workers.dead import count

    deliveries, messages = count(connection, which)
    if not sys.stdin.isatty():
        raise TocsinError(f"nobody is there to be asked about {many(deliveries, messages)}: add --yes")
    typer.confirm(f"{verb} {many(deliveries, messages)}?", abort=True)


def report(decided: "Decided", done: str, as_json: bool) -> None:
    import msgspec

    if as_json:
        typer.echo(msgspec.json.encode(decided).decode())
    else:
        typer.echo(f"{done} {many(decided.deliveries, decided.messages)}")
    for left in decided.left:
        typer.echo(f"tocsin: {left.id}: {left.why}", err=True)
    if decided.left:
        raise typer.Exit(1)


def many(deliveries: int, messages: int) -> str:
    kinds = (deliveries, "delivery", "deliveries"), (messages, "message", "messages")
    return ", ".join(f"{count:,} {one if count == 1 else several}" for count, one, several in kinds)
