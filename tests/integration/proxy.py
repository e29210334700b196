"""A TCP proxy before a server, which can do what networks do: cut, refuse, be silent, lose an answer.

Rules look at one read at a time: what they look for must come in one piece, as a small command on loopback does.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST, as the kernel of a machine without that server does."""


@dataclass
class Rule:
    """Once, on the first piece that contains `words`: it is lost; with `cut` its connection too; with `away`
    all connections, and new ones are refused. `happened` is set then."""

    words: bytes
    cut: bool = False
    away: bool = False
    happened: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """Listens on `port` of 127.0.0.1 for a server on another. `refused`: connections turned away so far."""

    def __init__(self, server_port: int) -> None:
        self.refused = 0
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._away = False
        self._flowing = threading.Event()
        self._flowing.set()
        self._requests: list[Rule] = []
        self._replies: list[Rule] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Ends every connection; new ones are welcome."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def refuse(self) -> None:
        """The server is away, until `restore`."""
        self._away = True
        self.cut()

    def restore(self) -> None:
        self._away = False

    def pause(self) -> None:
        """Nothing comes through, and no connection ends, until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def on_request(self, words: bytes, *, cut: bool = False, away: bool = False) -> threading.Event:
        return self._add(self._requests, Rule(words, cut, away))

    def on_reply(self, words: bytes, *, cut: bool = False, away: bool = False) -> threading.Event:
        return self._add(self._replies, Rule(words, cut, away))

    def close(self) -> None:
        self._away = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.resume()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _add(self, rules: list[Rule], rule: Rule) -> threading.Event:
        rules.append(rule)
        return rule.happened

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._away:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.close()
                self.refused += 1
                continue
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with (
            client,
            socket.create_connection(("127.0.0.1", self._server_port)) as server,
            self._known(client, server),
        ):
            back = threading.Thread(target=self._pump, args=(server, client, self._replies))
            back.start()
            self._pump(client, server, self._requests)
            back.join()

    @contextlib.contextmanager
    def _known(self, *sockets: socket.socket) -> Iterator[None]:
        self._open.update(sockets)
        if self._away:  # it went away while we connected
            self.cut()
        try:
            yield
        finally:
            self._open.difference_update(sockets)

    def _pump(self, source: socket.socket, target: socket.socket, rules: list[Rule]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                self._flowing.wait()
                rule = next((rule for rule in rules if rule.words in data), None)
                if rule is None:
                    target.sendall(data)
                    continue
                rules.remove(rule)
                if rule.away:
                    self.refuse()
                rule.happened.set()
                if rule.cut:
                    break
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
