"""What runs: processes, actors, channels, the API, the gateway, embedded servers, the command."""

import sys
from types import TracebackType

from schema.errors import TocsinError

_usual = sys.excepthook


def _in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A process that ends because of its configuration says so in one line."""
    if isinstance(error, TocsinError):
        sys.stderr.write(f"tocsin: {error}\n")
    else:
        _usual(kind, error, trace)


sys.excepthook = _in_one_line
