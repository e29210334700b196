"""The pool of a worker process when PostgreSQL comes back."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from workers import embedded

AWAY = 4.0
"""Seconds: longer than the pool's first tries to reconnect."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_work_goes_on_soon_after_postgres_was_away_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself psycopg's pool doubles its pauses: the longer the server was away, the later it is found."""
    from workers import resources
    from workers.patience import patiently, stopping
    from workers.settings import settings

    stopping.clear()  # another test ended a worker in this process
    with embedded.start(tmp_path, valkey=False) as servers:
        monkeypatch.setenv("DATABASE_URL", servers.database_url)
        settings.cache_clear()
        resources.pool.cache_clear()
        pool = resources.pool()

        def ask() -> None:
            with pool.connection() as connection:
                connection.execute("SELECT 1")

        ask()
        server = servers.postgres
        assert server
        try:
            os.kill(server.pid, signal.SIGQUIT)
            assert server.wait(time.monotonic() + 10)
            back: list[float] = []

            def bring_back() -> Callable[[], None]:
                down = time.monotonic()

                def work() -> None:
                    if not back and time.monotonic() > down + AWAY:
                        server.launch()
                        back.append(time.monotonic())
                    ask()

                return work

            patiently(bring_back())
            busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
            assert time.monotonic() - back[0] < 3 * busy
        finally:
            pool.close()
            resources.pool.cache_clear()
            settings.cache_clear()
