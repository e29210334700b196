"""Reads the Procfile: which processes there are, and what starts each."""

import re
import shlex
from pathlib import Path

from schema.errors import TocsinError

PROCFILE = Path(__file__).parent.parent / "Procfile"
_LINE = re.compile(r"([A-Za-z0-9_-]+):\s+(\S.*)")


def read(path: Path = PROCFILE) -> dict[str, list[str]]:
    """Process name -> the words of its command, in the file's order. A command is run as it is, by no shell.

    Raises TocsinError, starting with file:line, for a line that is neither `name: command` nor a comment, and
    for a name that comes twice.
    """
    commands: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip())
        if not match:
            raise TocsinError(f"{path}:{number}: expected `name: command`, found {line!r}")
        name, command = match.groups()
        if name in commands:
            raise TocsinError(f"{path}:{number}: a second process named {name}")
        try:
            commands[name] = shlex.split(command)
        except ValueError as error:
            raise TocsinError(f"{path}:{number}: {error}") from None
    return commands
