"""The parts of the chain without its queues, for tests of one part on real servers."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from redis import Redis

from pipelines import STAGES, accept
from pipelines.accept import Accepted, address
from pipelines.fan_out import fan_out
from pipelines.stage import Resources
from schema.notification import Notification

TEMPLATES = Path(__file__).parents[2] / "templates"
CONTENT = {"userName": "Bob", "comment": "Hi", "postId": 1, "commentId": "c"}

Row = dict[str, Any]
Rows = Callable[..., list[Row]]
Run = Callable[..., int]
T = TypeVar("T")


class Chain(NamedTuple):
    """The chain without queues: events in, deliveries out."""

    use: Resources

    def accept(self, *events: dict[str, Any]) -> list[Accepted]:
        """Events as rows; what is not said is a comment for ada."""
        usual = {"type": "comment", "recipients": ["ada"], "data": CONTENT}
        calls = [[accept.read(msgspec.json.encode(usual | event), self.use.catalog)] for event in events]
        with self.use.pool.connection() as connection:
            return accept.accept(connection, "http", calls)[1]

    def address(self, *events: dict[str, Any]) -> list[Notification]:
        return [n for accepted in self.accept(*events) for n in address(accepted, self.use.catalog)]

    def narrow(self, batch: list[Notification]) -> list[Notification]:
        for stage in STAGES:
            batch = stage(batch, self.use)
        return batch

    def ready(self, *events: dict[str, Any]) -> list[Notification]:
        """A batch as it comes to fan_out."""
        return self.narrow(self.address(*events))

    def route(self, *events: dict[str, Any]) -> dict[str, list[Any]]:
        return fan_out(self.ready(*events), self.use)


class Process(NamedTuple):
    """What a worker process has, in this one: settings from the environment, its own pool, client and broker."""

    client: Redis

    def queued(self, queue: str) -> list[dict[str, Any]]:
        """What the messages on a queue carry."""
        found = cast("dict[bytes, bytes]", self.client.hgetall(f"tocsin:{queue}.msgs"))
        return [msgspec.json.decode(message)["args"][0] for message in found.values()]


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """work(0), work(1), … in as many threads, let go at the same moment."""
    gate = threading.Barrier(count)

    def begin(number: int) -> T:
        gate.wait()
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begin, range(count)))
