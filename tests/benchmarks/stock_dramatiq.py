"""A chain of five actors that do nothing, on Dramatiq as it comes:

    dramatiq tests.benchmarks.stock_dramatiq --processes 1 --threads 8

Each sends to the next; the last one counts. REDIS_URL names the server.
"""

import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker

HOPS = 5
COUNT = "stock-dramatiq:done"

broker = RedisBroker(url=os.environ["REDIS_URL"])
dramatiq.set_broker(broker)


def declare(hop: int) -> dramatiq.Actor[[int], None]:
    following = declare(hop + 1) if hop < HOPS else None

    def work(n: int) -> None:
        if following:
            following.send(n)
        else:
            broker.client.incr(COUNT)

    return dramatiq.actor(actor_name=f"hop{hop}")(work)


first = declare(1)


if __name__ == "__main__":
    # `python -m tests.benchmarks.stock_dramatiq COUNT` is the sender: it waits for a line of input.
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    for n in range(int(sys.argv[1])):
        first.send(n)
