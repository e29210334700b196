"""How much was accepted and is not yet done, for those who let more in: the API, and the stream's readers."""

import threading
import time
from typing import Any

import psycopg
import redis
from psycopg_pool import PoolTimeout

from workers.log import logger
from workers.queues import NAMESPACE, PIPELINE, PIPELINE_BULK
from workers.resources import pool

INTERVAL = 1.0
"""Seconds between two looks at Postgres, unless looking takes long."""
SHARE = 0.02
"""Part of its time that the API looks; the longer a look takes, the rarer it is."""
LONG = {PIPELINE: 1_000_000, PIPELINE_BULK: 50_000_000}
"""Bytes of the messages that wait where events begin, above which readers of the stream pause: a notification is
100 to 200. Few: what is read too early waits in front of what comes over HTTP. Large events may wait in greater
number, since everybody else's wait behind the pause."""
SHORT = 0.5
"""Part of them at which the readers go on."""
_WAITING = """
local found = {}
for _, queue in ipairs(KEYS) do
  local bytes, first = 0, redis.call('LRANGE', queue, 0, 99)
  for _, id in ipairs(first) do
    bytes = bytes + redis.call('HSTRLEN', queue .. '.msgs', id)
  end
  if #first > 0 then -- the others are as large, about
    bytes = bytes / #first * redis.call('LLEN', queue)
  end
  table.insert(found, math.floor(bytes))
end
return found
"""

_NO_OTHER_PLAN = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off"
"""Only the partial index may be walked: the walk ends at the limit, however large the table is."""
_UNROUTED = """
SELECT count(*) FROM (
    SELECT 1 FROM events WHERE routed_count < recipient_count AND greatest(accepted_at, send_at) <= now()
    LIMIT %s
) AS unrouted
"""


class Backlog:
    """Whether more than `limit` accepted events wait to be routed; those that wait for their `send_at` do not
    count. Known from a look now and then, so asking costs nothing."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.full = False

    def watch(self, stop: threading.Event) -> None:
        """Looks until stopped. While Postgres is away nothing is known, and nothing is held against callers."""
        while not stop.is_set():
            began = time.monotonic()
            try:
                with pool().connection() as connection, connection.transaction():
                    connection.execute(_NO_OTHER_PLAN)
                    row = connection.execute(_UNROUTED, (self.limit + 1,)).fetchone()
                full = bool(row and row[0] > self.limit)
            except (psycopg.errors.QueryCanceled, PoolTimeout):
                full = self.full  # it is busy, or away: then nothing is accepted anyway
            except psycopg.Error:
                full = False
            took = time.monotonic() - began
            if full != self.full:
                self.full = full
                logger().warning("http_door_closed" if full else "http_door_open", limit=self.limit)
            stop.wait(max(INTERVAL, took / SHARE))


class Chain:
    """Whether the chain has more than enough to do: then what comes by the stream stays there, behind a door
    that can be closed."""

    def __init__(self, client: redis.Redis) -> None:
        self._waiting = client.register_script(_WAITING)
        self._busy = False

    def is_busy(self) -> bool:
        """One trip. Raises redis.RedisError."""
        answer: Any = self._waiting(keys=[f"{NAMESPACE}:{queue}" for queue in LONG])
        waiting: dict[str, int] = dict(zip(LONG, answer, strict=True))
        part = SHORT if self._busy else 1
        self._busy = any(bytes_ > part * LONG[queue] for queue, bytes_ in waiting.items())
        return self._busy
