"""The Procfile and the code name the same queues and modules: work that nobody takes would wait for ever."""

import importlib.util
import json
import subprocess
import sys

import pytest
from dramatiq.cli import make_argument_parser

from schema.errors import TocsinError
from workers.channels import CHANNELS
from workers.procfile import PROCFILE, read

COMMANDS = read()
CONSUMED = [
    queue
    for words in COMMANDS.values()
    if words[0] == "dramatiq"
    for queue in make_argument_parser().parse_args(words[1:]).queues
]
LIST_QUEUES = """
import json, dramatiq, workers.main
print(json.dumps([actor.queue_name for actor in dramatiq.get_broker().actors.values()]))
"""


def test_every_actor_has_a_process_and_every_process_an_actor(environment):
    listed = subprocess.run(
        [sys.executable, "-c", LIST_QUEUES], env=environment, stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert set(json.loads(listed.stdout)) == set(CONSUMED), "queues of the actors | queues of the Procfile"


def test_every_channel_has_a_process():
    assert {f"deliver-{channel.NAME}" for channel in CHANNELS} <= set(CONSUMED)


def test_no_queue_is_consumed_by_two_lines():
    assert len(CONSUMED) == len(set(CONSUMED))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_starts_a_module_that_exists(name):
    words = COMMANDS[name]
    assert words[0] in ("python", "dramatiq")
    module = words[2] if words[:2] == ["python", "-m"] else words[1]
    found = importlib.util.find_spec(module)
    assert found, f"{PROCFILE}: {name}: no module {module}"
    if found.submodule_search_locations:
        assert importlib.util.find_spec(f"{module}.__main__"), f"{module} is a package that cannot be run"


def test_a_worker_drains_no_longer_than_a_host_usually_waits():
    for words in COMMANDS.values():
        if words[0] == "dramatiq":
            assert make_argument_parser().parse_args(words[1:]).worker_shutdown_timeout < 30_000


def test_comments_and_empty_lines_are_no_processes(tmp_path):
    path = tmp_path / "Procfile"
    path.write_text("# a: comment\n\nweb: run --name 'two words'\nclock:  tick  \n")
    assert read(path) == {"web": ["run", "--name", "two words"], "clock": ["tick"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web run\n", r"Procfile:1: expected `name: command`, found 'web run'"),
        ("web:\n", r"Procfile:1: expected"),
        ("web: a\nweb: b\n", r"Procfile:2: a second process named web"),
        ("web: echo 'never closed\n", r"Procfile:1: No closing quotation"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, text, message):
    path = tmp_path / "Procfile"
    path.write_text(text)
    with pytest.raises(TocsinError, match=message):
        read(path)
