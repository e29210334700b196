"""What the commands of `tocsin` share: where they write, how they connect, how they fail."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

from schema.errors import TocsinError

if TYPE_CHECKING:
    import psycopg

out = Console(highlight=False)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What a user can mend is said in one line; a bug of ours keeps its traceback."""
    import psycopg
    import redis
    import sqlalchemy.exc

    try:
        yield
    except TocsinError as error:
        fail(str(error))
    except (psycopg.OperationalError, sqlalchemy.exc.OperationalError):
        fail("Postgres does not answer at DATABASE_URL: is `make up` running?")
    except psycopg.errors.UndefinedTable:
        fail("the database has no tables yet: run `tocsin migrate`")
    except redis.RedisError:
        fail("Redis does not answer at REDIS_URL: is `make up` running?")


def fail(message: str) -> None:
    typer.echo(f"tocsin: {message}", err=True)
    raise typer.Exit(1)


def connect() -> "psycopg.Connection":
    """One connection that speaks UTC, given up after 3 seconds: a command is short, and so is its patience."""
    import psycopg

    from workers.settings import settings

    return psycopg.connect(settings().conninfo, connect_timeout=3, options="-c timezone=UTC")


def plain(text: str | None) -> str:
    """What others wrote, fit for a terminal: on one line, without its control codes, and no markup of ours."""
    return escape("".join(c if c.isprintable() else " " for c in text or ""))


def day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else "-"
