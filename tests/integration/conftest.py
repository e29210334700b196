"""For tests of one part on real servers: a pool, a client, the catalog, and short ways in and out."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import dramatiq
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool
from redis import Redis

from pipelines.catalog import Catalog
from pipelines.stage import Resources
from tests.integration.chain import TEMPLATES, Chain, Process, Row, Rows, Run
from tests.integration.limited import Load, load
from workers.settings import Settings


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load(TEMPLATES)


@pytest.fixture
def pool(database_url: str) -> Iterator[ConnectionPool]:
    with ConnectionPool(database_url, kwargs={"autocommit": True}, min_size=1, max_size=50, timeout=30) as opened:
        yield opened


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as connected:
        yield connected


@pytest.fixture
def use(pool: ConnectionPool, client: Redis, catalog: Catalog) -> Resources:
    return Resources(pool, client, catalog, frozenset({"web"}))


@pytest.fixture
def limited(tmp_path: Path, client: Redis) -> Load:
    """Resources with these limits and no database."""
    return lambda **limits: load(tmp_path, client, **limits)


@pytest.fixture
def rows(database_url: str) -> Rows:
    """rows("SELECT …", …): what a query answers, each row a dict."""

    def query(sql: str, *values: object) -> list[Row]:
        with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(sql, values).fetchall()

    return query


@pytest.fixture
def run(database_url: str) -> Run:
    """run("UPDATE …", …): how many rows it changed."""

    def execute(sql: str, *values: object) -> int:
        with psycopg.connect(database_url, autocommit=True) as connection:
            return connection.execute(sql, values).rowcount

    return execute


@pytest.fixture
def dump(rows: Rows) -> Callable[[], dict[str, list[str]]]:
    """Every row of every table, as text; also of rows that were written anew with the same values."""

    def everything() -> dict[str, list[str]]:
        tables = rows("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
        return {
            name: sorted(row["t"] for row in rows(f"SELECT xmin || {name}::text AS t FROM {name}"))
            for name in (table["relname"] for table in tables)
        }

    return everything


@pytest.fixture
def chain(use: Resources) -> Chain:
    return Chain(use)


@pytest.fixture
def process(settings: Settings, client: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    configured = importlib.import_module("workers.settings").settings
    configured.cache_clear()
    resources = importlib.import_module("workers.resources")
    importlib.import_module("workers.patience").stopping.clear()  # another test ended a worker in this process
    broker, used = importlib.import_module("workers.broker"), dramatiq.get_broker()
    connected = broker.connect()  # the first test that imported the module made the broker, for its own servers
    monkeypatch.setattr(used, "client", connected.client)
    monkeypatch.setattr(used, "scripts", connected.scripts)
    monkeypatch.setattr(used, "in_hand", connected.in_hand)
    made = (resources.resources, resources.catalog, resources.pool, resources.redis_client)
    for one in made:
        one.cache_clear()
    pool, redis = resources.pool(), resources.redis_client()  # now: threads that ask first at once make several
    yield Process(client)
    pool.close()
    redis.close()
    connected.client.close()
    for one in (*made, configured):
        one.cache_clear()
