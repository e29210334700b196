"""A mistake in a template is said once, with file and line, by every process that would need it; a wrong setting
likewise."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DRAMATIQ = ["dramatiq", "workers.main", "--queues", "pipeline", "--processes", "1", "--threads", "1"]


@pytest.fixture
def broken(tmp_path, environment):
    folder = tmp_path / "templates"
    shutil.copytree(ROOT / "templates", folder)
    (folder / "comment" / "title.txt.j2").write_text("New comment\nfrom {{ data.userName")
    return environment | {"TOCSIN_TEMPLATES": str(folder)}


@pytest.fixture
def ended(broken):
    """What became of `python -m …`, which is to end by itself."""

    def run(*words, **variables):
        command = [sys.executable, "-m", *words]
        return subprocess.run(
            command, env=broken | variables, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.mark.parametrize("module", ["api", "gateway", "intake", "clock"])
def test_a_process_does_not_start_and_says_where(ended, module):
    process = ended(f"workers.{module}")
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert "templates/comment/title.txt.j2:2: " in line


def test_a_worker_does_not_start_and_says_where(ended):
    process = ended(*DRAMATIQ)
    said = process.stdout + process.stderr
    assert process.returncode != 0
    assert [line for line in said.splitlines() if "templates/comment/title.txt.j2:2: " in line], said
    assert "Traceback" not in said
    assert "is ready for action" not in said


def test_so_does_a_setting_that_cannot_work(ended):
    """Before anything is started."""
    process = ended("workers.cli", "up", TOCSIN_SMTP_URL="mail.example.org:25")
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith("tocsin: TOCSIN_SMTP_URL: must be smtp://")
    assert len(process.stderr.splitlines()) == 1
