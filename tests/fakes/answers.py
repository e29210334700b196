"""An HTTP server of scripted answers: over real sockets, with connections that are kept."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self


class Answer(NamedTuple):
    """What to answer. `hang`: not at all, until the server ends; `cut`: close the connection instead; `slow`:
    after so many seconds."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    hang: bool = False
    cut: bool = False
    slow: float = 0


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class _Listener(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""


class Server:
    """Subclasses answer. `counts` are of requests, by method and path."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.ending = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65536
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, self.rfile.read(length))
                with outer.lock:
                    outer.counts[f"{request.method} {request.path}"] += 1
                answer = outer.answer(request)
                if answer.hang or answer.slow:
                    outer.ending.wait(answer.slow or None)
                if answer.hang or answer.cut:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Listener(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True  # connections are kept until the client closes them
        self.authority = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.authority}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def answer(self, request: Request) -> Answer:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
