"""A mistake in a template is said once, with file and line, by every process that would need it."""

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


@pytest.mark.parametrize("module", ["api", "gateway", "intake", "clock"])
def test_a_process_does_not_start_and_says_where(broken, module):
    ended = subprocess.run(
        [sys.executable, "-m", f"workers.{module}"],
        env=broken,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "templates/comment/title.txt.j2:2: " in line


def test_a_worker_does_not_start_and_says_where(broken):
    ended = subprocess.run(
        [sys.executable, "-m", *DRAMATIQ], env=broken, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0
    (line,) = [line for line in ended.stdout.splitlines() if '"critical"' in line]
    assert "templates/comment/title.txt.j2:2: " in line
    assert "Traceback" not in ended.stdout
