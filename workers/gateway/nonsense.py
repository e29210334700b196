"""What a browser sends is no error of ours: libraries' complaints of it become one short line, at WARNING."""

import logging


class Nonsense(logging.Filter):
    """Of a logger whose errors are a browser's: all of them, or those that begin with `beginning`."""

    def __init__(self, beginning: str = "") -> None:
        super().__init__()
        self._beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR and str(record.msg).startswith(self._beginning):
            kind = record.exc_info[0] if record.exc_info else None
            record.msg = f"{record.msg}: {kind.__name__}" if kind else record.msg
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.exc_info = record.exc_text = None
        return True


def quieten() -> None:
    """Once, when the process starts."""
    logging.getLogger("engineio").addFilter(Nonsense())
    server = logging.getLogger("uvicorn.error")
    server.setLevel(logging.WARNING)  # at INFO it tells of each WebSocket, with its query
    server.addFilter(Nonsense("Invalid UTF-8"))
