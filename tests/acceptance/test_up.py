"""`tocsin up`, as a newcomer runs it: the real command with real servers, from the first line to the last."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jwt
import pytest
import redis
from dotenv import dotenv_values

from workers.procfile import read

TOCSIN = Path(sys.executable).parent / "tocsin"
TEMPLATES = Path(__file__).parent.parent.parent / "templates"
SAMPLES = len(list(TEMPLATES.glob("[!_]*/sample.json")))
pytestmark = pytest.mark.timeout(400)  # a machine that is busy with other tests starts six processes slowly
DRAINED = 30
"""Seconds until the last one is gone when the supervisor was killed: a worker gives up its message after 20."""


class Up:
    """One run of `tocsin up` in `home`, with its own ports; what it prints is in `home`/../screen."""

    def __init__(self, home: Path, ports: tuple[int, int, int]):
        self.home = home
        self.gateway_port, self.api_port, self.dev_port = ports
        self.environment = os.environ | {
            "TOCSIN_HOME": str(home),
            "TOCSIN_GATEWAY_PORT": str(ports[0]),
            "TOCSIN_API_PORT": str(ports[1]),
            "TOCSIN_DEV_PORT": str(ports[2]),
        }
        self.path = home.parent / f"screen-{time.monotonic_ns()}"
        with self.path.open("wb") as screen:
            self.process = subprocess.Popen(
                [TOCSIN, "up"],
                cwd=home.parent,
                env=self.environment,
                stdout=screen,
                stderr=screen,
                process_group=0,
            )

    @property
    def screen(self) -> str:
        return self.path.read_text()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 120
        while "Ready after" not in self.screen:
            assert self.process.poll() is None, self.screen
            assert time.monotonic() < deadline, self.screen
            time.sleep(0.05)

    def press_ctrl_c(self) -> None:
        """As a terminal does it: every process of the group gets the signal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, seconds: float = 30) -> int:
        return self.process.wait(seconds)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another `tocsin` command of the same checkout."""
        return subprocess.run(
            [TOCSIN, *words], env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )

    def command(self, *words: str) -> str:
        run = self.run(*words)
        assert run.returncode == 0, run.stderr
        return run.stdout

    def processes(self) -> dict[str, int]:
        """Name -> pid, of those who say they are alive."""
        return {p["process"]: p["pid"] for p in json.loads(self.command("status", "--json"))["processes"]}

    def server_pid(self, server: str) -> int:
        if server == "PostgreSQL":
            return int((self.home / "postgres" / "postmaster.pid").read_text().split()[0])
        with redis.Redis.from_url(dotenv_values(self.home / "env")["REDIS_URL"]) as client:
            return client.info("server")["process_id"]

    def sends(self, type: str, to: str) -> bool:
        """Whether an event, always the same one, was taken."""
        data = (TEMPLATES / type / "sample.json").read_text()
        words = ["send", type, "--to", to, "--data", data, "--id", f"{type}-{to}"]
        return self.run(*words).returncode == 0

    def inbox(self, user: str) -> list[dict]:
        secret = json.loads((self.home / "secrets.json").read_text())["TOCSIN_JWT_SECRET"]
        now = int(time.time())
        token = jwt.encode({"sub": user, "aud": "tocsin", "iat": now, "exp": now + 60}, secret, "HS256")
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.gateway_port}/api/notifications?limit=100",
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)["notifications"]

    def shown(self, page: str, marked: str) -> int:
        """How often a development page shows something."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.dev_port}/dev/{page}", timeout=5) as answer:
            return answer.read().decode().count(marked)


@pytest.fixture(scope="module")
def start_up(tmp_path_factory, free_port, processes_of, eventually):
    """start_up(), start_up(home), start_up(home, ports): runs that are ended after the module's tests."""
    runs: list[Up] = []

    def start(home: Path | None = None, ports: tuple[int, int, int] | None = None) -> Up:
        home = home or tmp_path_factory.mktemp("up") / "home"
        runs.append(Up(home, ports or (free_port(), free_port(), free_port())))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.wait()
    for home in {run.home for run in runs}:
        eventually(lambda home=home: not processes_of(home), seconds=DRAINED)
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def running(start_up) -> Up:
    """One run that tests look at."""
    run = start_up()
    run.wait_until_ready()
    return run


@pytest.fixture(scope="module")
def mistreated(start_up) -> Up:
    """One run that tests kill parts of; each waits until it works again."""
    run = start_up()
    run.wait_until_ready()
    return run


def test_a_newcomer_sees_where_to_look_and_finds_a_sample_of_every_type(running, eventually):
    key = json.loads((running.home / "secrets.json").read_text())["TOCSIN_API_KEY"]
    for shown in (f"http://127.0.0.1:{running.gateway_port}/", f"http://127.0.0.1:{running.api_port}/schema", key):
        assert shown in running.screen
    assert set(running.processes()) == set(read())
    assert SAMPLES
    eventually(lambda: len(running.inbox("demo")) == SAMPLES, seconds=30)
    assert len(running.screen.splitlines()) < 20, running.screen


def test_every_sample_is_also_a_mail_and_a_push_to_app_and_browser(running, eventually):
    for page in ("mail", "phone"):
        assert f"http://127.0.0.1:{running.dev_port}/dev/{page}" in running.screen
    eventually(lambda: running.shown("mail", 'class="subject"') == SAMPLES, seconds=60)
    eventually(lambda: running.shown("phone", 'class="notice"') == 2 * SAMPLES, seconds=60)


def test_secrets_are_for_the_owner_alone(running):
    for name in ("secrets.json", "env", "service-account.json", "phone.json"):
        assert stat.S_IMODE((running.home / name).stat().st_mode) == 0o600


def test_a_second_one_in_the_same_home_is_one_line(running, start_up):
    second = start_up(running.home)
    assert second.wait() == 1
    assert (
        second.screen == f"tocsin: `tocsin up` already runs in {running.home}, as process {running.process.pid}\n"
    )
    assert running.process.poll() is None
    assert (running.home / "env").exists()


@pytest.mark.parametrize("name", ["intake", "pipeline"])
def test_a_dead_process_is_started_again_and_one_line_says_so(mistreated, eventually, name):
    before = eventually(lambda: mistreated.processes().get(name))
    os.kill(before, signal.SIGKILL)
    eventually(lambda: mistreated.processes().get(name, before) != before, seconds=30)
    said = [line for line in mistreated.screen.splitlines() if line.startswith(f"{name} ") and "again" in line]
    assert len(said) == 1
    assert re.fullmatch(rf"{name} (was killed by SIGKILL|ended with exit code \d+): starting it again", said[0])


@pytest.mark.parametrize("server", ["PostgreSQL", "Valkey"])
def test_a_dead_server_is_started_again_and_work_goes_on(mistreated, eventually, server):
    eventually(lambda: len(mistreated.inbox("demo")) == SAMPLES, seconds=30)
    os.kill(mistreated.server_pid(server), signal.SIGKILL)
    eventually(lambda: f"{server} was killed by SIGKILL: starting it again" in mistreated.screen)
    eventually(lambda: mistreated.sends("comment", to=server), seconds=30)
    eventually(lambda: len(mistreated.inbox(server)) == 1, seconds=30)
    assert len(mistreated.inbox("demo")) == SAMPLES


def test_ctrl_c_stops_quickly_and_completely(start_up, processes_of):
    run = start_up()
    run.wait_until_ready()
    run.press_ctrl_c()
    assert_stopped_well(run, processes_of)


def test_ctrl_c_while_starting_stops_cleanly_too(start_up, processes_of, eventually):
    run = start_up()
    eventually((run.home / "env").exists, seconds=60)
    run.press_ctrl_c()
    assert_stopped_well(run, processes_of)


def test_the_start_after_a_sigterm_goes_on_with_the_data_and_the_secrets(start_up, processes_of, eventually):
    first = start_up()
    first.wait_until_ready()
    eventually(lambda: len(first.inbox("demo")) == SAMPLES, seconds=30)
    secrets = (first.home / "secrets.json").read_text()
    first.process.terminate()
    assert_stopped_well(first, processes_of)
    second = start_up(first.home)
    second.wait_until_ready()
    eventually(lambda: len(second.inbox("demo")) == 2 * SAMPLES, seconds=30)
    assert (second.home / "secrets.json").read_text() == secrets


def assert_stopped_well(run, processes_of):
    began = time.monotonic()
    assert run.wait() == 0
    busy = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    assert time.monotonic() - began < (30 if busy else 5)
    assert processes_of(run.home) == []
    assert not (run.home / "env").exists()
    assert "Traceback" not in run.screen


def test_a_killed_supervisor_leaves_nothing_and_the_next_start_works(start_up, processes_of, eventually):
    run = start_up()
    run.wait_until_ready()
    assert len(processes_of(run.home)) > len(read())
    run.process.kill()
    run.wait()
    eventually(lambda: not processes_of(run.home), seconds=DRAINED)
    again = start_up(run.home)
    again.wait_until_ready()
    eventually(lambda: len(again.inbox("demo")) == 2 * SAMPLES, seconds=60)


PORTS = ("TOCSIN_GATEWAY_PORT", "TOCSIN_API_PORT", "TOCSIN_DEV_PORT")


@pytest.mark.parametrize("variable", PORTS)
def test_a_taken_port_is_one_line_that_names_the_variable(start_up, free_port, variable):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        run = start_up(ports=tuple(taken if name == variable else free_port() for name in PORTS))
        assert run.wait() == 1
        assert run.screen == f"tocsin: port {taken} is taken: set {variable} to a free one\n"
