"""The fleet's queues in Redis, as numbers: names, depth, age. Dramatiq keeps them under its namespace as
{ns}:{queue} waiting ids, {ns}:{queue}.msgs every message not yet acknowledged, {ns}:{queue}.DQ.msgs those to be
retried, {ns}:{queue}.XQ dead ones."""

import time
from typing import Any, NamedTuple, cast

import msgspec
import redis
from dramatiq.common import dq_name, xq_name

from schema.wire import BATCH
from workers.channels import CHANNELS

NAMESPACE = "tocsin"
STREAM = "tocsin:events"
"""The stream of the second door; workers/intake.py reads it."""

PIPELINE = "pipeline"
PIPELINE_BULK = "pipeline-bulk"
"""Events with many recipients, so that they delay nobody else's."""


def delivery_queue(channel: str) -> str:
    return f"deliver-{channel}"


ENOUGH = 20
"""Messages that wait in a channel's queue, to which nobody who can wait adds more: the rest waits in Postgres."""

QUEUES = (PIPELINE, PIPELINE_BULK, *(delivery_queue(channel.NAME) for channel in CHANNELS))


class Share(NamedTuple):
    """How much of a queue a process takes. `calls` of its actor, running or waiting, with which it fetches no
    more: few, for what is left in Redis can be gathered, or taken by another process. `items` of one call."""

    calls: int
    items: int


SHARES = {delivery_queue(channel.NAME): Share(channel.AT_ONCE, channel.BATCH) for channel in CHANNELS}
"""Of the pipelines it is a Share(2, BATCH)."""


def share(queue: str) -> Share:
    return SHARES.get(queue, Share(2, BATCH))


class Queue(msgspec.Struct):
    """`depth`: waiting and running. `oldest`: seconds since the first waiting one was sent; None if none waits."""

    name: str
    depth: int
    oldest: float | None
    retrying: int = 0
    dead: int = 0


def look(client: redis.Redis) -> list[Queue]:
    """The stream, and every queue; a few trips."""
    entries = client.xlen(STREAM)
    first: Any = client.xrange(STREAM, count=1) if entries else []
    found = [Queue(STREAM, entries, _age(int(first[0][0].split(b"-")[0])) if first else None)]
    pipe = client.pipeline(transaction=False)
    for name in QUEUES:
        pipe.hlen(f"{NAMESPACE}:{name}.msgs")
        pipe.hlen(f"{NAMESPACE}:{dq_name(name)}.msgs")
        pipe.zcard(f"{NAMESPACE}:{xq_name(name)}")
    answers = pipe.execute()
    for index, name in enumerate(QUEUES):
        depth, delayed, dead = answers[3 * index : 3 * index + 3]
        found.append(Queue(name, depth, _age(waiting_since(client, name)), delayed, dead))
    return found


def backlog(client: redis.Redis, queue: str) -> int:
    """Messages that wait in a queue."""
    return client.llen(f"{NAMESPACE}:{queue}")


def waiting_since(client: redis.Redis, queue: str) -> int | None:
    """When the first message that waits in a queue was sent, in milliseconds by its sender's clock."""
    first = client.lindex(f"{NAMESPACE}:{queue}", 0)
    raw = cast("bytes | None", client.hget(f"{NAMESPACE}:{queue}.msgs", cast(str, first))) if first else None
    try:
        return int(msgspec.json.decode(raw)["message_timestamp"]) if raw else None
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return None


def _age(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else max(0.0, round(time.time() - milliseconds / 1000, 3))
