"""`tocsin`, the one command. Exit codes: 0 done, 1 not done, 2 misused; every error is one line."""

import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from schema.errors import TocsinError
from workers import cancel_cli, dead_cli, send_cli, trace_cli
from workers.tables import age, table
from workers.terminal import connect, one_line_errors, out

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
keys_app = typer.Typer(no_args_is_help=True, help="API keys of backend services, and the key of web push.")
app.add_typer(keys_app, name="keys")
app.add_typer(dead_cli.app, name="dead")
app.command()(send_cli.send)
app.command()(trace_cli.trace)
app.command()(cancel_cli.cancel)


@app.command()
def up() -> None:
    """Start the Procfile's processes, with embedded servers unless DATABASE_URL and REDIS_URL are set."""
    from workers.up import up as run

    with one_line_errors():
        raise typer.Exit(run())


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema. Safe to repeat."""
    from workers.migrate import migrate as run
    from workers.settings import settings

    with one_line_errors():
        before, after = run(settings().conninfo)
        typer.echo(f"at {after}" if before == after else f"from {before or 'an empty database'} to {after}")


@app.command()
def token(
    user: Annotated[str, typer.Argument(help="whose inbox it opens")],
    hours: Annotated[float, typer.Option(help="how long it lives", min=0.01, max=720)] = 1,
) -> None:
    """Print a JWT that opens USER's inbox, signed with TOCSIN_JWT_SECRET."""
    import jwt

    from workers.settings import settings

    with one_line_errors():
        secret = settings().jwt_secret.get_secret_value()
        if not secret:
            raise TocsinError("TOCSIN_JWT_SECRET is not set, and no `tocsin up` runs here")
        now = datetime.now(UTC)
        claims = {"sub": user, "aud": settings().jwt_audience, "iat": now, "exp": now + timedelta(hours=hours)}
        typer.echo(jwt.encode(claims, secret, algorithm="HS256"))


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """Doors open or closed, queues with depth and age, rows by state, processes alive."""
    with one_line_errors():
        import msgspec

        from workers.status import status as look

        with connect() as connection:
            found = look(connection)
        if as_json:
            typer.echo(msgspec.json.encode(found).decode())
            return
        tables = [
            table(
                "door",
                ["is", "waiting", "limit"],
                [
                    [d.door, "closed" if d.closed else "open", f"{d.waiting:,}", f"{d.limit:,}"]
                    for d in found.doors
                ],
            ),
            table(
                "queue",
                ["depth", "oldest", "retrying", "dead"],
                [[q.name, str(q.depth), age(q.oldest), str(q.retrying), str(q.dead)] for q in found.queues],
            ),
            table(
                "rows",
                ["state", "count", "oldest"],
                [[r.table, r.state.replace("_", " "), str(r.count), age(r.oldest)] for r in found.rows],
            ),
            table(
                "process",
                ["host", "pid", "up for"],
                [
                    [p.process, p.host, str(p.pid), age((datetime.now(UTC) - p.since).total_seconds())]
                    for p in found.processes
                ],
            ),
        ]
        for each in tables:
            out.print(each)
        if not found.processes:
            out.print("no process is alive: is `make up` running?")


@keys_app.command("create")
def keys_create(name: Annotated[str, typer.Argument(help="which service will use it")]) -> None:
    """Make a key and print it: it is shown this once."""
    with one_line_errors():
        from workers.api import keys

        with connect() as connection:
            id_, key = keys.create(connection, name)
        typer.echo(f"key {id_} for {name}, shown this once:", err=True)
        typer.echo(key)


@keys_app.command("list")
def keys_list() -> None:
    """The keys, without their secrets."""
    with one_line_errors():
        from workers.api import keys

        with connect() as connection:
            found = keys.all_keys(connection)
        out.print(
            table(
                "id",
                ["name", "created", "revoked"],
                [
                    [
                        k.id,
                        k.name,
                        f"{k.created_at:%Y-%m-%d %H:%M}",
                        f"{k.revoked_at:%Y-%m-%d %H:%M}" if k.revoked_at else "-",
                    ]
                    for k in found
                ],
            )
        )


@keys_app.command("revoke")
def keys_revoke(id: Annotated[str, typer.Argument(help="the id from `tocsin keys list`")]) -> None:
    """End a key; it stops working within 5 seconds."""
    with one_line_errors():
        from workers.api import keys

        with connect() as connection:
            known = keys.revoke(connection, id)
        if not known:
            raise TocsinError(f"no key has the id {id!r}: see `tocsin keys list`")
        typer.echo(f"revoked {id}")


@keys_app.command("vapid")
def keys_vapid() -> None:
    """Make a key pair for web push and print it; it is stored nowhere."""
    with one_line_errors():
        from workers import vapid

        private, public = vapid.generate()
        typer.echo(f"TOCSIN_VAPID_PRIVATE_KEY={private}")
        typer.echo(f"# its public key, which the gateway tells browsers: {public}")


def main() -> None:
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
