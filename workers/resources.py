"""What a process opens once, on first use: the pool, the Redis client, the catalog. Nothing opens at import."""

from functools import cache

import msgspec
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool
from redis import Redis

from pipelines.catalog import Catalog
from pipelines.stage import Resources
from workers.channels import CHANNELS
from workers.settings import settings

POOL_SIZE = 8
"""Connections at most, a process; more than its threads would only wait for each other."""


@cache
def catalog() -> Catalog:
    return Catalog.load(settings().templates, settings().hosts)


@cache
def redis_client() -> Redis:
    """Commands end after 5 s; a lost connection is tried again three times within a second by redis-py."""
    return Redis.from_url(settings().redis, socket_timeout=5, socket_connect_timeout=2, health_check_interval=15)


@cache
def pool() -> ConnectionPool:
    """Statements end after 30 s; waiting for a connection ends after 10 s."""
    set_json_loads(msgspec.json.decode)
    return ConnectionPool(
        settings().conninfo,
        min_size=1,
        max_size=POOL_SIZE,
        timeout=10,
        kwargs={
            "options": "-c timezone=UTC -c statement_timeout=30000 -c idle_in_transaction_session_timeout=30000"
        },
        open=True,
    )


@cache
def resources() -> Resources:
    return Resources(pool(), redis_client(), catalog(), frozenset(channel.NAME for channel in CHANNELS))
