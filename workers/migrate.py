"""Brings the database to the schema's newest revision, and makes the months of the partitioned tables."""

from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, make_url, text

from schema.partitions import statements

_ONE_AT_A_TIME = 0x70C51  # any number: the advisory lock that lets one migration run at a time


def config(connection: Connection | None = None) -> Config:
    alembic = Config()
    alembic.set_main_option("script_location", str(Path(__file__).parent.parent / "schema" / "migrations"))
    alembic.attributes["connection"] = connection
    return alembic


def head() -> str:
    """The revision that this code expects."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    return str(revision)


def migrate(database_url: str, revision: str = "head") -> tuple[str | None, str | None]:
    """Up to `revision`; answers the revisions before and after. Safe to repeat and to run twice at once."""
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ONE_AT_A_TIME})
            before = MigrationContext.configure(connection).get_current_revision()
            command.upgrade(config(connection), revision)
            after = MigrationContext.configure(connection).get_current_revision()
            if revision == "head":
                for statement in statements(datetime.now(UTC)):
                    connection.execute(text(statement))
        return before, after
    finally:
        engine.dispose()
