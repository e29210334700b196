"""The directory of one `tocsin up`: TOCSIN_HOME, or .tocsin here. It keeps the servers' data, the logs and the
development secrets for the next time and, while it runs, `env`: the variables by which other commands of the
checkout find the servers."""

import fcntl
import json
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from schema.errors import TocsinError


@contextmanager
def alone_in(home: Path) -> Iterator[None]:
    """Makes `home` and holds it. Raises TocsinError when another `tocsin up` does."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise TocsinError(f"`tocsin up` already runs in {home}, as process {lock.read()}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def development_secrets(home: Path) -> dict[str, str]:
    """TOCSIN_API_KEY and TOCSIN_JWT_SECRET: made once and kept; the environment wins."""
    path = home / "secrets.json"
    names = ("TOCSIN_API_KEY", "TOCSIN_JWT_SECRET")
    try:
        kept = json.loads(path.read_text())
        made = {name: str(kept[name]) for name in names}
    except FileNotFoundError:
        made = {name: f"dev_{secrets.token_urlsafe(32)}" for name in names}
        _write_private(path, json.dumps(made))
    except (ValueError, KeyError, TypeError):
        raise TocsinError(f"{path} is damaged: remove it, and new secrets are made") from None
    return {name: os.environ.get(name) or made[name] for name in names}


def write_env(home: Path, variables: Mapping[str, str]) -> None:
    _write_private(home / "env", "".join(f"{name}={shlex.quote(v)}\n" for name, v in variables.items()))


def remove_env(home: Path) -> None:
    (home / "env").unlink(missing_ok=True)


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, and for the owner's eyes only."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.rename(path)
