"""What a process opens once, on first use: the pool, the Redis client, the catalog. Nothing opens at import."""

import gc
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
_SESSION = {
    "timezone": "UTC",
    "statement_timeout": 30_000,
    "idle_in_transaction_session_timeout": 30_000,
    # A batch looks up 500 rows by id. Priced as if each were a disk's turn, whole tables would be read instead.
    "random_page_cost": 1.1,
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}


@cache
def catalog() -> Catalog:
    loaded = Catalog.load(settings().templates, settings().hosts)
    # A batch is thousands of objects that all go together. Code and templates stay for ever.
    gc.set_threshold(20_000, 20, 50)
    gc.freeze()
    return loaded


@cache
def redis_client() -> Redis:
    """Commands end after 5 s; a lost connection is tried again three times within a second by redis-py."""
    return Redis.from_url(settings().redis, socket_timeout=5, socket_connect_timeout=2, health_check_interval=15)


@cache
def pool() -> ConnectionPool:
    """Each statement commits by itself, unless a transaction was begun. Statements end after 30 s; waiting for a
    connection ends after 3 s, and whoever waits tries anew: the pool's own come at doubling intervals, so they
    find a server late that was away for long."""
    set_json_loads(msgspec.json.decode)
    return ConnectionPool(
        settings().conninfo,
        min_size=1,
        max_size=POOL_SIZE,
        timeout=3,
        reconnect_timeout=1,
        kwargs={"autocommit": True, "options": " ".join(f"-c {name}={value}" for name, value in _SESSION.items())},
        open=True,
    )


@cache
def resources() -> Resources:
    ready = [channel for channel in CHANNELS if channel.ready()]
    served = frozenset(name for channel in ready for name in (channel.NAME, channel.SERVES))
    return Resources(pool(), redis_client(), catalog(), served)
