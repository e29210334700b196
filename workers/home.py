"""The directory of one `tocsin up`: TOCSIN_HOME, or .tocsin here. It keeps the servers' data, the logs and the
development secrets for the next time and, while it runs, `env`: the variables by which other commands of the
checkout find the servers."""

import fcntl
import json
import os
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping
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
    made = kept_secrets(home, dict.fromkeys(("TOCSIN_API_KEY", "TOCSIN_JWT_SECRET"), _development_secret))
    return {name: os.environ.get(name) or secret for name, secret in made.items()}


def kept_secrets(home: Path, makers: Mapping[str, Callable[[], str]]) -> dict[str, str]:
    """The secrets of these names, each made by its function the first time and kept. Raises TocsinError when the
    file that keeps them is damaged."""
    path = home / "secrets.json"
    try:
        kept = {str(name): str(secret) for name, secret in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        kept = {}
    except (ValueError, AttributeError):
        raise TocsinError(f"{path} is damaged: remove it, and new secrets are made") from None
    made = {name: make() for name, make in makers.items() if name not in kept}
    if made:
        write_private(path, json.dumps(kept | made))
    return {name: (kept | made)[name] for name in makers}


def _development_secret() -> str:
    return f"dev_{secrets.token_urlsafe(32)}"


def write_env(home: Path, variables: Mapping[str, str]) -> None:
    write_private(home / "env", "".join(f"{name}={shlex.quote(v)}\n" for name, v in variables.items()))


def remove_env(home: Path) -> None:
    (home / "env").unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, and for the owner's eyes only."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.rename(path)
