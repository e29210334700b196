"""The two doors that cannot answer: the Redis Stream `tocsin:events`, and rows inserted into `events` by SQL.

Both commit first and forget the original after: a crash in between brings the same event again, and its id tells
that it is a repeat. What is wrong goes to `rejected_events` with every reason. Any number of copies may run.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import psycopg
import redis
from psycopg import Connection
from psycopg.rows import dict_row

from pipelines import accept
from pipelines.accept import Accepted, Arrival
from schema.errors import FieldError, InvalidEvent
from workers import log, stream_door
from workers.alive import say_alive
from workers.backlog import Chain
from workers.chain import start
from workers.patience import AWAY
from workers.queues import STREAM
from workers.resources import catalog, pool, redis_client

GROUP = "intake"
FIELD = b"event"
NO_FIELD = "the entry has no such field: XADD tocsin:events * event '<json>'"
BATCH = 500
ABANDONED_MS = 5_000
"""An entry that a reader has held this long without acknowledging is taken over: the reader died. Looked for every
second or so."""
BLOCK_MS = 1_000
POLL = 0.5
"""Seconds between two looks at the SQL door."""
PAUSE = 1.0
"""Seconds to wait after Postgres or Redis failed."""
PACE, LONGEST_PACE = 0.01, 0.03
"""Seconds to wait after a batch, for each of its events, and at most: the more come, the larger the next batch and
the less each costs. A lonely event waits for nobody."""
CHAIN_POLL = 0.05
"""Seconds between two looks at a chain that has more than enough to do."""

_WAITING = """
SELECT id, type, recipients::text, actor, data::text, group_key, importance, cancel_key, source,
    to_json(send_at) #>> '{}' AS send_at, to_json(expires_at) #>> '{}' AS expires_at
FROM events WHERE accepted_at IS NULL ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED
"""
_TAKE = """
UPDATE events e SET accepted_at = now(), body_hash = decode(t.hash, 'hex'), recipients = t.recipients,
    recipient_count = CASE WHEN cancelled_at IS NOT NULL THEN 0
        WHEN jsonb_typeof(t.recipients) = 'array' THEN jsonb_array_length(t.recipients) ELSE 1 END
FROM unnest(%s::text[], %s::text[], %s::jsonb[]) AS t (id, hash, recipients) WHERE e.id = t.id
RETURNING e.id, e.accepted_at, e.send_at > now() AND cancelled_at IS NULL, cancelled_at IS NULL
"""
_TIMERS = """
INSERT INTO timers (key, kind, subject, due_at)
SELECT 'event/' || id, 'event', id, send_at FROM events WHERE id = ANY(%s) ON CONFLICT (key) DO NOTHING
"""

Entry = tuple[bytes, dict[bytes, bytes]]
Good = tuple[Arrival, bytes]
Rejected = tuple[str | None, bytes, list[FieldError]]


def run_stream(client: redis.Redis, stop: threading.Event) -> None:
    """Reads the stream until stopped; a dead reader's entries first, then new ones. While the chain has more than
    enough to do, they wait where they are."""
    reader = f"{socket.gethostname()}-{os.getpid()}"
    chain, looked = Chain(client), 0.0
    while not stop.is_set():
        try:
            if chain.is_busy():
                stop.wait(CHAIN_POLL)
                continue
            entries: list[Entry] = []
            if time.monotonic() - looked > BLOCK_MS / 1000:
                entries, looked = abandoned(client, reader), time.monotonic()
            if entries := entries or fresh(client, reader):
                take_entries(client, entries)
                stop.wait(min(len(entries) * PACE, LONGEST_PACE) if len(entries) < BATCH else 0)
        except redis.ResponseError as error:
            if "NOGROUP" in str(error):
                make_group(client)
            else:  # a replica, a full memory: it will be another's turn, or pass
                log.logger().warning("intake_waits", door="stream", error=str(error)[:80])
                stop.wait(PAUSE)
        except AWAY as error:
            log.logger().warning("intake_waits", door="stream", error=type(error).__name__)
            stop.wait(PAUSE)
    leave(client, reader)


def make_group(client: redis.Redis) -> None:
    """From the stream's beginning: what was added before the first intake ran is not lost."""
    try:
        client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def abandoned(client: redis.Redis, reader: str) -> list[Entry]:
    claimed: Any = client.xautoclaim(STREAM, GROUP, reader, min_idle_time=ABANDONED_MS, count=BATCH)
    return cast("list[Entry]", claimed[1])


def fresh(client: redis.Redis, reader: str) -> list[Entry]:
    read: Any = client.xreadgroup(GROUP, reader, {STREAM: ">"}, count=BATCH, block=BLOCK_MS)
    return cast("list[Entry]", read[0][1] if read else [])


def leave(client: redis.Redis, reader: str) -> None:
    """Forgets this reader, unless it holds entries: those are for others to take over."""
    try:
        if not client.xpending_range(STREAM, GROUP, "-", "+", 1, consumername=reader):
            client.xgroup_delconsumer(STREAM, GROUP, reader)
    except redis.RedisError:
        return


def take_entries(client: redis.Redis, entries: Sequence[Entry]) -> None:
    """Commits a batch, then acknowledges and deletes it, then sends it into the chain. When Postgres refuses its
    content, each entry is taken alone: the one that is refused is kept as rejected, its neighbours go on."""
    good, rejected = sort_entries(entries)
    try:
        with pool().connection() as connection:
            ready = store(connection, good, rejected)
    except psycopg.DataError as error:
        if len(entries) > 1:
            for entry in entries:
                take_entries(client, [entry])
            return
        why = FieldError("", f"the database refuses it: {error.diag.message_primary}")
        id_ = good[0][0].event.id if good else None
        ready, rejected = [], [(id_, entries[0][1].get(FIELD) or b"", [why])]
        with pool().connection() as connection:
            accept.reject(connection, "stream", rejected)
    ids = [id_ for id_, _ in entries]
    with client.pipeline(transaction=False) as pipe:
        pipe.xack(STREAM, GROUP, *ids)
        pipe.xdel(STREAM, *ids)
        pipe.execute()
    start(ready)
    report("stream", len(ready), len(rejected))


def sort_entries(entries: Sequence[Entry]) -> tuple[list[Good], list[Rejected]]:
    good: list[Good] = []
    rejected: list[Rejected] = []
    for entry, fields in entries:
        raw = fields.get(FIELD)
        if raw is None:
            rejected.append((None, repr(fields).encode(), [FieldError("event", NO_FIELD)]))
            continue
        try:
            # Its place in the stream names an event without an id: read again, it is the same event.
            good.append((accept.read(raw, catalog(), f"{STREAM}/{entry.decode()}"), raw))
        except InvalidEvent as error:
            rejected.append((None, raw, error.errors))
    return good, rejected


def store(connection: Connection, good: Sequence[Good], rejected: list[Rejected]) -> list[Accepted]:
    """What goes into the chain now; clashes are added to `rejected`."""
    verdicts, ready = accept.accept(connection, "stream", [[arrival] for arrival, _ in good])
    used = [FieldError("id", "was used before with another body")]
    for verdict, (arrival, raw) in zip(verdicts, good, strict=True):
        if verdict.conflicts:
            rejected.append((arrival.event.id, raw, used))
    accept.reject(connection, "stream", rejected)
    return ready


def run_sql(stop: threading.Event) -> None:
    """Looks for new rows in `events` twice a second, or at once while there are more."""
    while not stop.is_set():
        try:
            with pool().connection() as connection, connection.transaction():
                taken, ready = take_rows(connection)
            if ready:
                start(ready)
            if taken < BATCH:
                stop.wait(POLL)
        except AWAY as error:
            log.logger().warning("intake_waits", door="sql", error=type(error).__name__)
            stop.wait(PAUSE)
        except psycopg.DataError:  # a bug of ours; the other door goes on
            log.logger().exception("rows_not_taken")
            stop.wait(PAUSE)


def take_rows(connection: Connection) -> tuple[int, list[Accepted]]:
    """Checks a batch of inserted rows: good ones are accepted, bad ones move to `rejected_events`."""
    rows = connection.cursor(row_factory=dict_row).execute(_WAITING, (BATCH,)).fetchall()
    for row in rows:
        row |= {name: msgspec.Raw(row[name].encode()) for name in ("recipients", "data")}
    good: dict[str, Arrival] = {}
    rejected: list[Rejected] = []
    for row in rows:
        raw = msgspec.json.encode({name: value for name, value in row.items() if value is not None})
        try:
            good[row["id"]] = accept.read(raw, catalog())
        except InvalidEvent as error:
            rejected.append((row["id"], raw, error.errors))
    taken = connection.execute(
        _TAKE,
        (
            list(good),
            [arrival.hash for arrival in good.values()],
            [msgspec.json.encode(arrival.event.recipients).decode() for arrival in good.values()],
        ),
    ).fetchall()
    accept.reject(connection, "sql", rejected)
    connection.execute("DELETE FROM events WHERE id = ANY(%s)", ([id_ for id_, _, _ in rejected],))
    if waiting := [id_ for id_, _, waits, _ in taken if waits]:
        connection.execute(_TIMERS, (waiting,))
    ready = [
        Accepted(id_, e.type, accept.listed(e), e.importance, e.group_key, accepted_at)
        for id_, accepted_at, waits, wanted in taken
        if wanted and not waits and (e := good[id_].event)
    ]
    if rows:
        report("sql", len(ready), len(rejected))
    return len(rows), ready


def report(door: str, accepted: int, rejected: int) -> None:
    log.logger().info("events_taken", door=door, accepted=accepted, rejected=rejected)


def main() -> None:
    log.configure("intake")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    pool()
    catalog()  # a template that is wrong is said now
    take_leave = say_alive(redis_client(), "intake")
    threads = [
        threading.Thread(target=run_stream, args=(redis_client(), stop), name="stream"),
        threading.Thread(target=run_sql, args=(stop,), name="sql"),
        threading.Thread(target=stream_door.keep, args=(redis_client(), stop), name="stream door"),
    ]
    for thread in threads:
        thread.start()
    while all(thread.is_alive() for thread in threads) and not stop.wait(1):
        continue
    died = not stop.is_set()
    stop.set()
    for thread in threads:
        thread.join()
    take_leave()
    pool().close()
    if died:
        raise SystemExit("intake: a thread failed; its traceback is above")


if __name__ == "__main__":
    main()
