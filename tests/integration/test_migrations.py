"""Migrations and schema/tables.py say the same, and every migration can be taken back."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, make_url, text

from schema import partitions
from schema.tables import metadata
from workers.health import newest_revision
from workers.migrate import config, head, migrate

REVISIONS = [script.revision for script in reversed(list(ScriptDirectory.from_config(config()).walk_revisions()))]


@pytest.fixture
def connection(empty_database_url):
    engine = create_engine(make_url(empty_database_url).set(drivername="postgresql+psycopg"))
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def tables(connection):
    return set(inspect(connection).get_table_names()) - {"alembic_version"}


def test_the_health_check_knows_the_newest_revision():
    assert newest_revision() == head()


def test_migrations_build_exactly_the_tables(empty_database_url, connection):
    assert migrate(empty_database_url) == (None, head())
    command.check(config(connection))
    assert {name for name in tables(connection) if name in metadata.tables} == set(metadata.tables)


def test_every_migration_goes_up_down_and_up_again(connection):
    for revision in REVISIONS:
        before = tables(connection)
        command.upgrade(config(connection), revision)
        after = tables(connection)
        command.downgrade(config(connection), "-1")
        assert tables(connection) == before
        command.upgrade(config(connection), revision)
        assert tables(connection) == after
    command.check(config(connection))


def test_a_database_in_use_goes_all_the_way_down(empty_database_url, connection):
    migrate(empty_database_url)
    connection.execute(text("INSERT INTO users (id) VALUES ('ada')"))
    connection.execute(
        text(
            "INSERT INTO deliveries (id, notification_id, user_id, channel, state) "
            "SELECT id, id, 'ada', 'web', 'pending' FROM (SELECT uuidv7() AS id) AS made"
        )
    )
    command.downgrade(config(connection), "base")
    assert tables(connection) == set()


def test_repeating_changes_nothing(empty_database_url):
    assert migrate(empty_database_url) == (None, head())
    assert migrate(empty_database_url) == (head(), head())


def test_several_at_once_migrate_once(empty_database_url):
    patient = f"{empty_database_url}?options=-c%20lock_timeout%3D20s"
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(migrate, [patient] * 4))
    assert sorted(answers, key=str) == sorted([(None, head()), *[(head(), head())] * 3], key=str)


def test_there_is_a_partition_for_now_and_the_next_months(empty_database_url, connection):
    migrate(empty_database_url)
    found = tables(connection)
    for table in partitions.PARTITIONED:
        assert {partitions.name(table, month) for month in partitions.months(datetime.now(UTC))} <= found


def test_there_is_one_line_of_migrations():
    assert ScriptDirectory.from_config(config()).get_heads() == [REVISIONS[-1]]
