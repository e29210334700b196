"""Whether a process could work now: the checks behind `/readyz`, and the numbers behind `/metrics`."""

import threading
from collections.abc import Callable

import psycopg
import redis
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.settings import Settings

METRICS_TYPE = CONTENT_TYPE_LATEST
_SECONDS = 0.4


def _postgres(settings: Settings) -> str:
    with psycopg.connect(settings.conninfo, connect_timeout=1, options="-c statement_timeout=300") as connection:
        connection.execute("SELECT 1")
    return "ok"


def _migrations(settings: Settings) -> str:
    from workers.migrate import head  # late: Alembic is half of what the two HTTP processes would import

    with psycopg.connect(settings.conninfo, connect_timeout=1, options="-c statement_timeout=300") as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    found = row[0] if row else None
    return "ok" if found == head() else f"at {found}, expected {head()}: run `tocsin migrate`"


def _redis(settings: Settings) -> str:
    client = redis.Redis.from_url(
        settings.redis, socket_timeout=0.3, socket_connect_timeout=0.3, retry=Retry(NoBackoff(), 0)
    )
    with client:
        client.ping()
    return "ok"


def readiness(settings: Settings) -> dict[str, str]:
    """check -> "ok" or what is wrong. Every check has its own connection and runs beside the others; one that
    hangs is reported after 0.4 s, so the answer never takes longer."""
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
    for thread in threads:
        thread.join(_SECONDS)
    return dict(found)


def metrics() -> bytes:
    """This process's numbers in the Prometheus text format; times are in seconds."""
    return generate_latest()
