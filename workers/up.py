"""`tocsin up`: everything on this machine, for development. Servers, migrations, every process of the Procfile,
a sample of each notification type; until Ctrl-C, which leaves nothing running."""

import http.client
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.exc import ArgumentError, OperationalError

from schema.errors import TocsinError
from workers import embedded, procfile
from workers.alive import living
from workers.channels import CHANNELS
from workers.fleet import Fleet, death_of
from workers.home import alone_in, development_secrets, remove_env, write_env
from workers.local import demo
from workers.migrate import migrate
from workers.process import Process, stop, tied
from workers.settings import Settings, home, settings

READY_SECONDS = 120.0
STOP_SECONDS = 4.0
"""How long processes may take to drain; a second more is left for the servers."""
ROUND = 0.1
"""Seconds between two looks at the processes."""
_BIN = Path(sys.executable).parent


def up() -> int:
    """Runs until Ctrl-C or SIGTERM, then answers 0. Raises TocsinError when it cannot start."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with alone_in(home()):
            _run(home())
    except PermissionError as error:
        raise TocsinError(f"{error.filename}: {error.strerror}: does it belong to another user?") from None
    except KeyboardInterrupt:
        pass  # how it is meant to end
    return 0


def _interrupt(_number: int, _frame: object) -> None:
    """The first signal ends the run; those that follow do not disturb the stopping."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(where: Path) -> None:
    began, clock = datetime.now(UTC), time.monotonic()
    remove_env(where)  # of a killed run, whose servers are gone
    settings.cache_clear()
    config = settings()
    for channel in CHANNELS:
        channel.ready()
    local = demo.variables(config, where)
    _check_ports(config, local=bool(local))
    fleet = Fleet()
    fleet.say("Starting …")
    database, queue = os.environ.get("DATABASE_URL", ""), os.environ.get("REDIS_URL", "")
    servers = embedded.start(where, postgres=not database, valkey=not queue)
    try:
        variables = {
            "DATABASE_URL": database or servers.database_url,
            "REDIS_URL": queue or servers.redis_url,
            **development_secrets(where),
            "TOCSIN_GATEWAY_PORT": str(config.gateway_port),
            "TOCSIN_API_PORT": str(config.api_port),
            "TOCSIN_DEV_PORT": str(config.dev_port),
            "TOCSIN_DEVELOPMENT": "1",
            **local,
        }
        _migrate(variables["DATABASE_URL"])
        client = _redis(variables["REDIS_URL"])
        write_env(where, variables)
        for name, command in procfile.read().items():
            fleet.start(_process(name, command, where / "logs", variables))
        if local:
            fleet.start(_process("local", ["python", "-m", "workers.local"], where / "logs", variables))
        _wait_until_ready(fleet, config, client, began)
        sent = demo.send_samples(config, variables)
        fleet.say(_welcome(config, variables, where, sent, time.monotonic() - clock))
        for server in servers.processes:
            fleet.watch(server)
        while True:
            fleet.show_lines()
            fleet.restart_dead()
            time.sleep(ROUND)
    finally:
        fleet.say("Stopping …")
        for late in stop(fleet.processes, STOP_SECONDS):
            fleet.say(f"{late.name} did not stop within {STOP_SECONDS:.0f} s: killed")
        servers.stop(1.0)
        remove_env(where)


def _check_ports(config: Settings, *, local: bool) -> None:
    ports = {"TOCSIN_GATEWAY_PORT": config.gateway_port, "TOCSIN_API_PORT": config.api_port}
    if local:
        ports["TOCSIN_DEV_PORT"] = config.dev_port
    for one, other in combinations(ports, 2):
        if ports[one] == ports[other]:
            raise TocsinError(f"{one} and {other} are both {ports[one]}: change one")
    for variable, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((config.host, port))
            except PermissionError:
                raise TocsinError(f"port {port} needs root: set {variable} to one above 1023") from None
            except OSError:
                raise TocsinError(f"port {port} is taken: set {variable} to a free one") from None


def _migrate(url: str) -> None:
    try:
        migrate(url)
    except OperationalError as error:
        raise TocsinError(f"DATABASE_URL: {error.orig}") from None
    except ArgumentError:
        raise TocsinError("DATABASE_URL: expected postgresql://user:password@host/database") from None


def _redis(url: str) -> redis.Redis:
    """A client whose server answers."""
    try:
        client = redis.Redis.from_url(url, socket_timeout=2, retry=Retry(NoBackoff(), 0))
        client.ping()
    except (redis.RedisError, ValueError) as error:
        raise TocsinError(f"REDIS_URL: {error}") from None
    return client


def _process(name: str, command: list[str], logs: Path, variables: Mapping[str, str]) -> Process:
    environment = {
        **os.environ,
        **variables,
        "TOCSIN_PROCESS": name,
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    # Not SIGTERM: when we are killed the servers end too, and nothing is left to drain into.
    words = [*tied(signal.SIGKILL), *command]
    return Process(name, words, logs / f"{name}.log", environment, procfile.PROCFILE.parent)


def _wait_until_ready(fleet: Fleet, config: Settings, client: redis.Redis, began: datetime) -> None:
    """Until both HTTP processes say they are ready and every other one has reported alive since `began`. Raises
    TocsinError with the last lines of a process that ends, or is not ready after READY_SECONDS."""
    ports = {"api": config.api_port, "gateway": config.gateway_port, "local": config.dev_port}
    waiting = {process.name: process for process in fleet.processes}
    deadline = time.monotonic() + READY_SECONDS
    while waiting:
        fleet.show_lines()
        for process in fleet.processes:
            if process.ended() is not None:
                raise TocsinError(f"{death_of(process)} while starting.\n{_last_words(process)}")
        if time.monotonic() > deadline:
            late = "\n".join(map(_last_words, waiting.values()))
            raise TocsinError(f"not ready after {READY_SECONDS:.0f} s: {', '.join(waiting)}\n{late}")
        time.sleep(ROUND)
        host = socket.gethostname()
        alive = {one.process for one in living(client) if one.host == host and one.since >= began}
        for name in list(waiting):
            if _answers(config, ports[name]) if name in ports else name in alive:
                del waiting[name]


def _last_words(process: Process) -> str:
    said = "\n".join(f"    {line}" for line in process.last_lines(15)) or "    nothing"
    return f"  {process.log} ends with:\n{said}"


def _answers(config: Settings, port: int) -> bool:
    connection = http.client.HTTPConnection(_host(config), port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _welcome(config: Settings, variables: Mapping[str, str], where: Path, samples: str, seconds: float) -> str:
    web, api = f"http://{_host(config)}:{config.gateway_port}/", f"http://{_host(config)}:{config.api_port}/"
    installed = _BIN / "tocsin"
    tocsin = "tocsin" if shutil.which("tocsin") == str(installed) else _seen_from_here(installed)
    local = "".join(f"  {name:<13}  {page}  {what}\n" for name, page, what in demo.pages(config, variables))
    return f"""
Ready after {seconds:.1f} s.

  Notifications  {web}  {samples}
{local}  API            {api}  described at {api}schema
  API key        {variables["TOCSIN_API_KEY"]}  for development only
  Processes      {tocsin} status
  Logs           {_seen_from_here(where / "logs")}

Ctrl-C stops everything. Warnings and errors appear here:
"""


def _seen_from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _host(config: Settings) -> str:
    """Where this machine reaches its own servers."""
    return "127.0.0.1" if config.host in ("0.0.0.0", "") else config.host  # noqa: S104
