"""The clock: what is due by time. Any number of copies; each duty claims its rows with FOR UPDATE SKIP LOCKED,
does a bounded amount at once, and may be repeated. What is due is so by Postgres' clock."""

import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from typing import cast

from pipelines.accept import Accepted
from pipelines.fan_out import RESEND_AFTER
from schema.partitions import statements
from workers import log, stream_door
from workers.alive import say_alive
from workers.broker import DEAD_LETTERS_KEPT, HEARTBEAT_TIMEOUT
from workers.chain import BULK, LANES, start
from workers.channels import CHANNELS
from workers.deliver import send_deliveries
from workers.devices import stale_devices
from workers.due import ROUND, end_leases, send_due_deliveries
from workers.patience import AWAY
from workers.queues import NAMESPACE, QUEUES, waiting_since
from workers.resources import catalog, pool, redis_client
from workers.settings import settings

RESCUES = 12
"""How often an event is sent again, at doubling intervals: after some hours it is a poison, left for people."""
MARK = "tocsin:not-emptied"
"""A key whose absence says that Redis lost what it held."""
REFILLING = "tocsin:refilling"
"""When that was found, by Postgres' clock; there until what was open before is in motion again."""

_DONE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
"""Unless Redis was emptied once more meanwhile."""
_ACCEPTED = """
id, type, CASE jsonb_typeof(recipients) WHEN 'array' THEN recipients END, importance, group_key, accepted_at
"""
"""A row as pipelines/accept.py's Accepted."""
_TIMERS = f"""
WITH due AS (
    DELETE FROM timers WHERE key = ANY(ARRAY( -- looked up one by one: a join might read all that wait
        SELECT key FROM timers WHERE kind = 'event' AND due_at <= now()
        ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED
    )) RETURNING subject
)
SELECT {_ACCEPTED} FROM events JOIN due ON id = subject WHERE cancelled_at IS NULL
"""
_UNROUTED = f"""
UPDATE events SET rescues = rescues + 1, rescued_at = now() WHERE id IN (
    SELECT id FROM events
    WHERE routed_count < recipient_count AND rescues < %(rescues)s
        AND (recipient_count > %(bulk)s OR jsonb_typeof(recipients) = 'object') = %(large)s
        AND greatest(accepted_at, send_at) < now() - %(after)s
        AND greatest(accepted_at, send_at, rescued_at, expanded_at)
            < coalesce(to_timestamp(%(waiting_since)s / 1000.0), now()) - %(after)s
        AND greatest(accepted_at, send_at, rescued_at, expanded_at) + %(after)s * power(2, rescues) < now()
    ORDER BY greatest(accepted_at, send_at) LIMIT %(round)s FOR UPDATE SKIP LOCKED
) RETURNING {_ACCEPTED}
"""
_ALL_UNROUTED = f"""
UPDATE events SET rescued_at = now() WHERE id IN (
    SELECT id FROM events
    WHERE routed_count < recipient_count AND greatest(accepted_at, send_at) <= %(found)s
        AND (rescued_at IS NULL OR rescued_at < %(found)s)
    ORDER BY greatest(accepted_at, send_at) LIMIT %(round)s FOR UPDATE SKIP LOCKED
) RETURNING {_ACCEPTED}
"""
_ALL_UNSENT = """
UPDATE deliveries SET next_attempt_at = now() + %(after)s WHERE id IN (
    SELECT id FROM deliveries
    WHERE state = 'pending' AND next_attempt_at < %(found)s::timestamptz + %(after)s AND channel = %(channel)s
    ORDER BY next_attempt_at LIMIT %(round)s FOR UPDATE SKIP LOCKED
) RETURNING id
"""


def release_timers() -> int:
    """Starts events whose send_at has come. A crash after the commit leaves them to rescue_events."""
    with pool().connection() as connection:
        due = [Accepted(*row) for row in connection.execute(_TIMERS, (ROUND,))]
    start(due)
    return len(due)


def rescue_events() -> int:
    """Starts accepted events again whose message was lost: not routed in time, though what was sent after them
    has left the lane's queue already. A long backlog alone is no loss."""
    done = 0
    for queue, large in LANES:
        arguments = {
            "rescues": RESCUES,
            "bulk": BULK,
            "large": large,
            "after": RESEND_AFTER,
            "round": ROUND,
            "waiting_since": waiting_since(redis_client(), queue),
        }
        with pool().connection() as connection:
            lost = [Accepted(*row) for row in connection.execute(_UNROUTED, arguments)]
        start(lost)
        done += len(lost)
    return done


def refill() -> int:
    """Puts what is open back in motion as soon as Redis is found empty, a round at a time; other clocks help.
    After a crash the next one goes on. What a round had in hand is found by the rescue, retries by their time."""
    redis = redis_client()
    if not redis.exists(MARK):
        with pool().connection() as connection:
            ((now,),) = connection.execute("SELECT now()::text")
        redis.mset({REFILLING: now, MARK: 1})
    found = cast("bytes | None", redis.get(REFILLING))
    if found is None:
        return 0
    arguments = {"found": found.decode(), "after": RESEND_AFTER, "round": ROUND}
    with pool().connection() as connection:
        lost = [Accepted(*row) for row in connection.execute(_ALL_UNROUTED, arguments)]
        unsent = {
            channel.NAME: [
                id_ for (id_,) in connection.execute(_ALL_UNSENT, arguments | {"channel": channel.NAME})
            ]
            for channel in CHANNELS
        }
    start(lost)
    for channel, ids in unsent.items():
        send_deliveries(channel, ids)
    most = max(len(lost), *map(len, unsent.values()))
    if most < ROUND:
        redis.eval(_DONE, 1, REFILLING, found)
    return most


def return_messages() -> int:
    """Gives back to their queues what dead processes held; see dead_workers.lua."""
    script = redis_client().register_script(files("workers").joinpath("dead_workers.lua").read_text())
    queues = [name for queue in QUEUES for name in (queue, f"{queue}.DQ")]
    return int(str(script(keys=[NAMESPACE], args=[HEARTBEAT_TIMEOUT, DEAD_LETTERS_KEPT, *queues])))


def keep_stream_door() -> int:
    """Closes or opens the stream, in case no intake runs that would."""
    stream_door.turn(redis_client(), settings().stream_limit)
    return 0


def make_partitions() -> int:
    """The months to come of the partitioned tables."""
    with pool().connection() as connection:
        for statement in statements(datetime.now(UTC)):
            connection.execute(statement)
    return 0


DUTIES: tuple[tuple[Callable[[], int], float], ...] = (
    (release_timers, 0.5),
    (end_leases, 1),
    (send_due_deliveries, 1),
    (refill, 1),
    (return_messages, 2),
    (keep_stream_door, 2),
    (rescue_events, 3),
    (make_partitions, 3600),
    (stale_devices, 3600),
)
"""Each duty, and the seconds between two rounds of it."""


def run(stop: threading.Event) -> None:
    """Does every duty when it is due, until stopped. A full round is followed by the next at once."""
    due = dict.fromkeys((duty for duty, _ in DUTIES), 0.0)
    while not stop.is_set():
        for duty, interval in DUTIES:
            if stop.is_set() or time.monotonic() < due[duty]:
                continue
            due[duty] = time.monotonic() + interval
            try:
                done = duty()
            except AWAY as error:
                log.logger().warning("clock_waits", duty=duty.__name__, error=type(error).__name__)
                continue
            except Exception:
                log.logger().exception("duty_failed", duty=duty.__name__)
                continue
            if done:
                log.logger().info("clock_did", duty=duty.__name__, rows=done)
            if done >= ROUND:
                due[duty] = 0.0
        stop.wait(max(0.05, min(due.values()) - time.monotonic()))


def main() -> None:
    log.configure("clock")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    catalog()  # a template that is wrong is said now
    take_leave = say_alive(redis_client(), "clock")
    run(stop)
    take_leave()
    pool().close()


if __name__ == "__main__":
    main()
