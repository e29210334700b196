"""The door of the stream `tocsin:events`: closed while more entries wait than TOCSIN_STREAM_LIMIT.

Redis knows no full stream: it trims, which loses events, or grows until its memory is spent. But a stream whose
last id is the last there can be refuses every XADD, and is read, acknowledged and deleted from as ever. So that
is how the door is closed; it opens again, with ids that go on increasing, when a fifth of the limit has drained.
Nothing but the stream itself knows whether it is closed: any process may die meanwhile, and any opens it again.
"""

import threading
from functools import cache
from importlib.resources import files
from typing import Any

import redis
from redis.commands.core import Script

from workers.log import logger
from workers.queues import STREAM
from workers.settings import settings

REFUSAL = "The stream has exhausted the last possible ID"
"""How Redis' answer to an XADD begins while the door is closed; a stream gets there in no other way."""
OPENS = 0.8
"""Part of the limit below which a closed door opens."""
INTERVAL = 1.0
"""Seconds between two looks."""
_LAST = b"18446744073709551615-18446744073709551615"


@cache
def _script(client: redis.Redis) -> Script:
    return client.register_script(files("workers").joinpath("stream_door.lua").read_text())


def turn(client: redis.Redis, limit: int) -> tuple[str, int]:
    """Closes or opens the door if it is time: ("closed", "open" or "" when it stays as it is, entries). Several
    processes may do so at once; one of them is told the change. Raises redis.RedisError."""
    answer: Any = _script(client)(keys=[STREAM], args=[limit, OPENS * limit])
    change, length = answer[0].decode(), answer[1]
    if change:
        logger().warning(f"stream_door_{change}", entries=length, limit=limit)
    return change, length


def is_closed(client: redis.Redis) -> bool:
    """Raises redis.RedisError."""
    if not client.exists(STREAM):
        return False
    found: Any = client.xinfo_stream(STREAM)
    return bool(found["last-generated-id"] == _LAST)


def keep(client: redis.Redis, stop: threading.Event) -> None:
    """Looks after the door until stopped. In a thread of its own: a reader that waits for Postgres looks too
    seldom, just when the stream grows."""
    while not stop.wait(INTERVAL):
        try:
            turn(client, settings().stream_limit)
        except redis.RedisError as error:  # the readers say it, and wait
            logger().debug("stream_door_not_seen", error=type(error).__name__)
