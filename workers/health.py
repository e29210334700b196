"""Whether a process could work now: the checks behind `/readyz`, and the numbers behind `/metrics`."""

import re
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psycopg
import redis
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.settings import Settings

METRICS_TYPE = CONTENT_TYPE_LATEST
_SECONDS = 0.8
_VERSIONS = Path(__file__).parent.parent / "schema" / "migrations" / "versions"
_REVISION = re.compile(r'^revision = "(\w+)"', re.MULTILINE)
_DOWN = re.compile(r'^down_revision = "(\w+)"', re.MULTILINE)


@cache
def newest_revision() -> str:
    """The migration that no other follows, from the files themselves: Alembic would be half of what the two HTTP
    processes import."""
    texts = [path.read_text() for path in _VERSIONS.glob("*.py")]
    after = {found[1] for text in texts if (found := _DOWN.search(text))}
    (newest,) = {found[1] for text in texts if (found := _REVISION.search(text))} - after
    return newest


def _postgres(settings: Settings) -> str:
    with psycopg.connect(settings.conninfo, connect_timeout=1, options="-c statement_timeout=300") as connection:
        connection.execute("SELECT 1")
    return "ok"


def _migrations(settings: Settings) -> str:
    with psycopg.connect(settings.conninfo, connect_timeout=1, options="-c statement_timeout=300") as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    found = row[0] if row else None
    return (
        "ok" if found == newest_revision() else f"at {found}, expected {newest_revision()}: run `tocsin migrate`"
    )


def _redis(settings: Settings) -> str:
    client = redis.Redis.from_url(
        settings.redis, socket_timeout=0.3, socket_connect_timeout=0.3, retry=Retry(NoBackoff(), 0)
    )
    with client:
        client.ping()
    return "ok"


def readiness(settings: Settings) -> dict[str, str]:
    """check -> "ok" or what is wrong. Every check has its own connection and runs beside the others; one that
    hangs is reported after 0.8 s, so the answer never takes longer."""
    checks: dict[str, Callable[[Settings], str]] = {
        "postgres": _postgres,
        "redis": _redis,
        "migrations": _migrations,
    }
    found = dict.fromkeys(checks, f"no answer within {_SECONDS} s")

    def run(name: str) -> None:
        try:
            found[name] = checks[name](settings)
        except Exception as error:  # whatever it is, it is the answer
            found[name] = f"{type(error).__name__}: unreachable or refused"

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in checks]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(found)


def metrics() -> bytes:
    """This process's numbers in the Prometheus text format; times are in seconds."""
    return generate_latest()
