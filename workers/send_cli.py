"""`tocsin send`: one event, put together from options, or a file of them."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from workers.terminal import one_line_errors, out

Numbered = list[tuple[int, bytes]]
"""Events as JSON, with the number of their line; 0 where there are no lines."""


class Door(StrEnum):
    http = "http"
    stream = "stream"


def send(
    type: Annotated[str | None, typer.Argument(help="notification type, e.g. comment", show_default=False)] = None,
    to: Annotated[list[str] | None, typer.Option(help="recipient; may be given several times")] = None,
    topic: Annotated[str | None, typer.Option(help="to this topic's subscribers, instead of --to")] = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="to every known user, instead of --to")] = False,
    data: Annotated[str | None, typer.Option(help="JSON object for the type's templates")] = None,
    id: Annotated[str | None, typer.Option(help="idempotency key")] = None,
    actor: Annotated[str | None, typer.Option(help="the user who caused it")] = None,
    group_key: Annotated[str | None, typer.Option(help="what it is about, e.g. post-9")] = None,
    importance: Annotated[str | None, typer.Option(help="low, normal, high or critical")] = None,
    send_at: Annotated[str | None, typer.Option(help="not before, e.g. 2030-01-31T12:00:00+01:00")] = None,
    expires_at: Annotated[str | None, typer.Option(help="not after")] = None,
    cancel_key: Annotated[str | None, typer.Option(help="what it can be cancelled by, with others")] = None,
    file: Annotated[Path | None, typer.Option(help="JSON lines, an event each, instead of TYPE")] = None,
    via: Annotated[Door, typer.Option(help="the door to use")] = Door.http,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would happen, and do nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="of --dry-run, for programs")] = False,
) -> None:
    """Send one event, or a file of them."""
    from workers import dry_run_cli
    from workers.sending import send_events

    if as_json and not dry_run:
        raise typer.BadParameter("--json is for --dry-run")
    if dry_run and via is not Door.http:
        raise typer.BadParameter("a dry run asks the API: --via http")
    if (type is None) == (file is None):
        raise typer.BadParameter("give either TYPE with --to, --topic or --everybody, or --file")
    said = {
        "id": id,
        "actor": actor,
        "group_key": group_key,
        "importance": importance,
        "send_at": send_at,
        "expires_at": expires_at,
        "cancel_key": cancel_key,
    }
    given = {name: value for name, value in said.items() if value is not None}
    whom = {"to": to or None, "topic": topic, "everybody": everybody or None}
    if file is not None:
        lines = in_file(file, given | {"data": data} | whom)
    else:
        event = {"type": type, "recipients": recipients(to, topic, everybody=everybody), "data": decoded(data)}
        lines = [(0, json.dumps(event | given).encode())]
    with one_line_errors():
        if dry_run:
            dry_run_cli.tell(lines, as_json=as_json)
            return
        answer = send_events(lines, via.value, progress=file is not None and out.is_terminal)
        typer.echo(answer)


def in_file(file: Path, besides: dict[str, Any]) -> Numbered:
    """The events of a file. Raises BadParameter when it cannot be read, or when something is said `besides`: each
    of its events says that itself."""
    if options := [f"--{name.replace('_', '-')}" for name, value in besides.items() if value is not None]:
        raise typer.BadParameter(f"each line of --file is an event of its own: leave out {', '.join(options)}")
    try:
        return [(n, line) for n, line in enumerate(file.read_bytes().splitlines(), 1) if line.strip()]
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}") from None


def recipients(to: list[str] | None, topic: str | None, *, everybody: bool) -> list[str] | dict[str, Any]:
    """Raises BadParameter unless exactly one says whom."""
    if [bool(to), topic is not None, everybody].count(True) != 1:
        raise typer.BadParameter("say whom: --to USER, or --topic TOPIC, or --everybody")
    if topic is not None:
        return {"topic": topic}
    return to or {"all": True}


def decoded(data: str | None) -> Any:
    try:
        return json.loads("{}" if data is None else data)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"--data is not JSON: {error}") from None
