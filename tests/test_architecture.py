"""What may know what: read from the sources, so that a new file is held to it too."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for package in ("schema", "pipelines", "workers") for path in (ROOT / package).rglob("*.py"))
IMPORT_ALL = """
import importlib, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.fork"):
        raise SystemExit(f"{event} at the import of {name}")

import urllib3  # which binds a socket, once, to see whether there is IPv6
sys.addaudithook(refuse)
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def module(path: Path) -> str:
    """`workers/api/app.py` -> `workers.api.app`"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, and every name it imports from one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers(name: str, below: str) -> list[str]:
    """The files below a directory that import `name` or something in it."""
    paths = (path for path in SOURCES if path.is_relative_to(ROOT / below))
    return [module(p) for p in paths if any(i == name or i.startswith(f"{name}.") for i in imported(p))]


def test_imports_point_down():
    checked = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("package", ["schema", "pipelines"])
@pytest.mark.parametrize("name", ["dramatiq", "os", "starlette", "litestar", "socketio", "workers"])
def test_only_workers_know_dramatiq_the_environment_and_the_web(package, name):
    assert importers(name, package) == []


@pytest.mark.parametrize("name", ["psycopg", "redis", "jinja2", "socket", "subprocess"])
def test_the_schema_does_no_io(name):
    assert importers(name, "schema") == []


def test_a_channel_knows_no_other():
    for path in (ROOT / "workers" / "channels").glob("[!_]*.py"):
        channels = {name for name in imported(path) if name.startswith("workers.channels")}
        assert channels == set(), module(path)


def test_a_stage_knows_no_other():
    from pipelines import STAGES

    names = {stage.__module__ for stage in STAGES}
    assert len(names) == len(STAGES), "one stage, one file"
    for name in names:
        assert imported(ROOT / f"{name.replace('.', '/')}.py") & names == set(), name


def test_the_environment_is_read_in_one_place():
    """workers/settings.py reads it; the supervisor hands it on to what it starts."""
    supervisor = {"workers.embedded", "workers.home", "workers.up"}
    readers = {
        module(path)
        for path in SOURCES
        if {"os.environ", "os.getenv"} & {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text()))}
        or {"os.environ", "os.getenv"} & imported(path)
    }
    assert readers - supervisor == {"workers.settings"}


def test_nothing_is_connected_or_started_by_an_import():
    names = [module(path) for path in SOURCES if path.stem != "__main__" and "migrations" not in path.parts]
    nowhere = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}
    subprocess.run([sys.executable, "-c", IMPORT_ALL, *names], cwd=ROOT, env=nowhere, check=True, timeout=60)
