"""What every test may ask for: real servers, a fresh database, settings, tokens, a browser.

Each pytest-xdist worker starts one PostgreSQL and one Valkey of its own. A test that asks for `database_url`
gets a new, migrated database; one that asks for `redis_url` finds Redis empty.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import hypothesis
import jwt
import psycopg
import pytest
import redis

from workers import embedded
from workers.migrate import migrate
from workers.settings import Settings

API_KEY = "test-key"
JWT_SECRET = "test-secret-of-at-least-32-bytes!!"
ROOT = Path(__file__).parent.parent

# What runs in the developer's shell or checkout is not what the tests are about.
for name in [name for name in os.environ if name.startswith("TOCSIN_") or name in ("DATABASE_URL", "REDIS_URL")]:
    del os.environ[name]
os.environ["TOCSIN_HOME"] = "/nonexistent"

# Speed is measured by `make bench`; a busy machine is no fault of an example.
hypothesis.settings.register_profile("tocsin", deadline=None)
hypothesis.settings.load_profile("tocsin")

T = TypeVar("T")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Servers]:
    """PostgreSQL and Valkey of this xdist worker. Tests that kill a server start their own."""
    home = tmp_path_factory.mktemp("servers")
    with embedded.start(home, durable=False) as started:
        yield started
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def template_database(servers: embedded.Servers) -> str:
    """The address of a migrated database that tests copy, and never write to."""
    migrate(servers.database_url)
    return servers.database_url


@pytest.fixture
def empty_database_url(servers: embedded.Servers) -> Iterator[str]:
    """A new database without a single table."""
    yield from _new_database(servers.database_url, template="template0")


@pytest.fixture
def database_url(template_database: str) -> Iterator[str]:
    """A new, migrated database; dropped after the test, whoever is still connected."""
    yield from _new_database(template_database, template="tocsin")


def _new_database(beside: str, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    server = beside.rpartition("/")[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        yield f"{server}/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis_url(servers: embedded.Servers) -> str:
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
        client.config_resetstat()
    return servers.redis_url


@pytest.fixture
def settings(database_url: str, redis_url: str, free_port: Callable[[], int]) -> Settings:
    """Settings for this test's servers: give them to what takes settings."""
    return Settings(
        _env_file=None,
        database_url=database_url,
        redis_url=redis_url,
        api_key=API_KEY,
        jwt_secret=JWT_SECRET,
        gateway_port=free_port(),
        api_port=free_port(),
    )


@pytest.fixture
def environment(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """The same settings as variables of a process that the test starts."""
    return os.environ | {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "TOCSIN_API_KEY": API_KEY,
        "TOCSIN_JWT_SECRET": JWT_SECRET,
        "TOCSIN_GATEWAY_PORT": str(settings.gateway_port),
        "TOCSIN_API_PORT": str(settings.api_port),
        "TOCSIN_HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def token() -> Callable[..., str]:
    """token("ada"), token("ada", exp=…, aud=…): what the embedding application would have signed."""

    def signed(user: str, **claims: object) -> str:
        now = datetime.now(UTC)
        usual = {"sub": user, "aud": "tocsin", "iat": now, "exp": now + timedelta(hours=1)}
        return jwt.encode(usual | claims, JWT_SECRET, algorithm="HS256")

    return signed


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    return embedded.free_port


@pytest.fixture(scope="session")
def eventually() -> Callable[..., object]:
    """eventually(condition, seconds=20): asks `condition` until the answer is true, and returns it."""

    def wait(condition: Callable[[], T], seconds: float = 20) -> T:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s; the last answer was {found!r}")
            time.sleep(0.02)
        return found

    return wait


@pytest.fixture(scope="session")
def processes_of() -> Callable[[Path], list[str]]:
    """processes_of(home): the commands of all processes that live in that directory or were told of it."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to see whose process is whose")

    def found(home: Path) -> list[str]:
        commands = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (process / "cmdline").read_bytes()
                told = command + (process / "environ").read_bytes() + os.fsencode((process / "cwd").readlink())
                if os.fsencode(home) in told:
                    commands.append(command.replace(b"\0", b" ").decode(errors="replace"))
        return commands

    return found


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium: $CHROMIUM, or the system's. Without one a test is skipped, and fails in CI."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path:
        return path
    missing = "no Chromium: install it, or set CHROMIUM to its path"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)
