"""`tocsin cancel`: what was accepted, and is wanted no more."""

from typing import Annotated

import typer

from workers.terminal import connect, fail, one_line_errors, out, plain


def cancel(
    event_id: Annotated[str | None, typer.Argument(help="the event's id", show_default=False)] = None,
    key: Annotated[str | None, typer.Option(help="every event of this cancel_key instead")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Cancel an event, or all of a key. What is sent stays sent; a line for each event says what was."""
    import msgspec

    from workers import cancellation

    if (event_id is None) == (key is None):
        raise typer.BadParameter("give either EVENT_ID or --key")
    known = (event_id or key or "").encode(errors="replace").decode().replace("\0", "")
    with one_line_errors():
        found, after = [], ""
        with connect() as connection:
            connection.autocommit = True
            if event_id is not None:
                one = cancellation.cancel(connection, known)
                found = [one] if one else []
            else:
                while True:
                    page = cancellation.cancel_all(connection, known, after)
                    found += page.events
                    if page.next is None:
                        break
                    after = page.next
        if not found:
            what = f"an event {known[:80]!r}" if event_id is not None else f"events of the key {known[:80]!r}"
            fail(f"nobody knows {what}: not accepted, waiting in the stream, rejected, or pruned")
        if as_json:
            typer.echo(msgspec.json.encode(found).decode())
            return
        for one in found:
            out.print(f"{plain(one.id)} {plain(one.says)}", soft_wrap=True)
