"""A producer in a process of its own: single-recipient events of the type `comment`, through the stream.

    python -m tests.benchmarks.producer REDIS_URL PREFIX USERS COUNT RATE

Says `ready` when its events are prepared, begins when it reads a line, and ends with two numbers: when the first
was added and when the last one was (time.monotonic, which is one clock for all processes). Event n goes to the
user PREFIX-(n mod USERS); RATE is events a second, 0 as fast as it can, in pipelines of 500.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tests.benchmarks.bench import Bench, Failed

STREAM = "tocsin:events"
TICK = 0.02
"""Seconds between two additions when a rate is kept."""


def event(n: int, prefix: str, users: int) -> dict[str, object]:
    return {
        "id": f"{prefix}-event-{n}",
        "type": "comment",
        "recipients": [f"{prefix}-{n % users}"],
        "data": {
            "userName": "Bob",
            "comment": "Great post! I had not thought of it that way.",
            "postId": f"p-{n}",
            "commentId": f"c-{n}",
        },
    }


class Producer:
    """The parent's side."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def go(self) -> None:
        print("go", file=self._process.stdin, flush=True)

    def times(self) -> tuple[float, float]:
        """When the first event was added and when the last one was; waits for that."""
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise Failed("the producer failed; its traceback is above")
        first, last = line.split()
        return float(first), float(last)


@contextmanager
def producing(
    bench: Bench, prefix: str, users: int, count: int, rate: float = 0, redis_url: str = ""
) -> Iterator[Producer]:
    """A producer that is ready to go."""
    url = redis_url or bench.redis_url()
    with bench.child("producer", url, prefix, users, count, rate) as process:
        if not process.stdout or process.stdout.readline() != "ready\n":
            raise Failed("the producer did not start; its traceback is above")
        yield Producer(process)


def main(redis_url: str, prefix: str, users: str, count: str, rate: str) -> None:
    raws = [json.dumps(event(n, prefix, int(users))) for n in range(int(count))]
    with redis.Redis.from_url(redis_url) as client:
        client.ping()
        print("ready", flush=True)  # noqa: T201
        sys.stdin.readline()
        began = time.monotonic()
        done = 0
        while done < len(raws):
            due = done + 500
            if float(rate):
                time.sleep(max(0.0, began + done / float(rate) + TICK - time.monotonic()))
                due = min(due, int((time.monotonic() - began) * float(rate)))
            with client.pipeline(transaction=False) as pipe:
                for raw in raws[done:due]:
                    pipe.xadd(STREAM, {"event": raw})
                pipe.execute()
            done = max(done, due)
        print(began, time.monotonic(), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
