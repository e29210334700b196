"""An inbox of 10,000 among a million notifications: what a page and the unread count cost the database.

The rows lie as they came: one user's among everybody else's, over the months that have a partition. The statements
are those of workers/gateway/inbox.py, called as the gateway calls them.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import AsyncConnection

from schema.partitions import months
from tests.benchmarks.bench import Bench, spread
from tests.benchmarks.report import Row, met
from workers.gateway import inbox

USERS = 9_900
"""Besides the one with the large inbox; a hundredth of them never had anything."""
_FILL = """
INSERT INTO notifications (id, event_id, user_id, seq, type, category, importance, actor, title, message,
    action_url, data, closed, read_at, created_at)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(hash, 1, 3) || '8'
        || substr(hash, 4, 15))::uuid,
    'event-' || n, CASE WHEN n %% 100 = 0 THEN 'heavy' ELSE 'user-' || n %% %(users)s END,
    CASE WHEN n %% 100 = 0 THEN n / 100 ELSE n / %(users)s + 1 END,
    (ARRAY['comment', 'like', 'mention', 'message'])[n %% 4 + 1], 'social', 'normal', 'bob',
    'New comment from Bob', 'Great post! I had not thought of it that way.', '/posts/p-' || n,
    jsonb_build_object('userName', 'Bob', 'postId', 'p-' || n, 'commentId', 'c-' || n),
    '{"email": "type_default", "push": "type_default"}',
    CASE WHEN hashtext(n::text) %% 10 < 7 THEN at + interval '1 hour' END, at
FROM generate_series(%(first)s::int, %(last)s::int) AS n,
    LATERAL (SELECT md5(n::text), %(since)s + (now() - %(since)s) * (n::float8 / %(rows)s)) AS made (hash, at)
"""
_PARENTS = "SELECT inhrelid::regclass::text, inhparent::regclass::text FROM pg_inherits"
"""A partition has indexes of its own; these say which index of the whole table each belongs to."""
_USERS = "INSERT INTO users (id) SELECT DISTINCT user_id FROM notifications"
_INBOXES = """
INSERT INTO inboxes (user_id, seq, unread, version)
SELECT user_id, max(seq), count(*) FILTER (WHERE read_at IS NULL), max(seq) FROM notifications GROUP BY user_id
"""


class Explained:
    """A connection that runs each query under EXPLAIN ANALYZE first: how long it takes without the way there and
    back, and by which indexes."""

    def __init__(self, db: inbox.Db) -> None:
        self._db = db
        self.seconds = 0.0
        self.scans: set[str] = set()

    async def execute(self, query: str, values: Any) -> Any:
        explained = await self._db.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}", values)
        ((found,),) = [row[0] for row in await explained.fetchall()]
        self.seconds += (found["Planning Time"] + found["Execution Time"]) / 1000
        self.scans |= set(_scans(found["Plan"]))
        return await self._db.execute(query, values)


def _scans(plan: dict[str, Any]) -> list[str]:
    """The indexes that gave rows, and the tables that were read without one."""
    found = [scan for child in plan.get("Plans", []) for scan in _scans(child)]
    if "Index Name" in plan:
        return [*found, plan["Index Name"]] if plan["Actual Rows"] else found
    read = plan.get("Actual Rows", 0) + plan.get("Rows Removed by Filter", 0)
    return [*found, f"all of {plan['Relation Name']}"] if plan["Node Type"] == "Seq Scan" and read else found


Ask = Callable[[Any], Awaitable[Any]]


def measure(bench: Bench) -> dict[str, Any]:
    bench.stop_fleet()
    count = 100_000 if bench.quick else 1_000_000
    url, began = bench.database("pages"), time.monotonic()
    with psycopg.connect(url, autocommit=True) as connection:
        asyncio.run(_fill(url, count))
        connection.execute(_USERS)
        connection.execute(_INBOXES)
        connection.execute("VACUUM (ANALYZE) notifications, inboxes, users")
        row = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE user_id = 'heavy') FROM notifications"
        ).fetchone()
    filled = time.monotonic() - began
    queries = asyncio.run(_ask_all(url, count // 100, 100 if bench.quick else 500))
    return {
        "rows": row[0] if row else 0,
        "rows_of_one_user": row[1] if row else 0,
        "filled_in_seconds": round(filled, 1),
        "queries": queries,
    }


async def _fill(url: str, count: int) -> None:
    """Two halves at once, for two cores."""

    async def half(first: int, last: int) -> None:
        async with await AsyncConnection.connect(url) as db:
            numbers = {"users": USERS, "rows": count, "first": first, "last": last}
            await db.execute(_FILL, numbers | {"since": next(months(datetime.now(UTC)))})

    await asyncio.gather(half(1, count // 2), half(count // 2 + 1, count))


async def _ask_all(url: str, places: int, times: int) -> dict[str, Any]:
    """Each query often, each time for another place or user."""

    def deep(db: Any) -> Awaitable[Any]:
        return inbox.page(db, "heavy", 20, random.randint(21, places), None, None)

    def somebody(db: Any) -> Awaitable[Any]:
        return inbox.page(db, f"user-{random.randrange(USERS)}", 20, None, None, None)

    questions: dict[str, Ask] = {
        "first page": lambda db: inbox.page(db, "heavy", 20, None, None, None),
        "deep page": deep,
        "unread page": lambda db: inbox.page(db, "heavy", 20, None, True, None),
        "somebody's first page": somebody,
        "unread count": lambda db: inbox.state(db, "heavy"),
    }
    found = {}
    async with await AsyncConnection.connect(url, autocommit=True) as db:
        parents = {index: parent async for index, parent in await db.execute(_PARENTS)}
        for name, ask in questions.items():
            called, inside, scans = list[float](), list[float](), set[str]()
            for _ in range(times):
                began = time.perf_counter()
                await ask(db)
                called.append(time.perf_counter() - began)
                explained = Explained(db)
                await ask(explained)
                inside.append(explained.seconds)
                scans |= {parents.get(scan, scan) for scan in explained.scans}
            found[name] = {"database_ms": spread(inside), "called_ms": spread(called), "read": sorted(scans)}
    return found


def rows(found: dict[str, Any], _: dict[str, Any]) -> list[Row]:
    made = []
    for name, of in found["queries"].items():
        at_most = 2 if name == "unread count" else 5
        database, called = of["database_ms"], of["called_ms"]
        made.append(
            Row(
                f"{name}, {found['rows_of_one_user']:,} of {found['rows']:,} rows one user's",
                f"p50 {database['p50']:.2f} ms, p99 {database['p99']:.2f} ms",
                f"p99 ≤ {at_most} ms",
                met(database["p99"] <= at_most),
                f"with the way there and back p99 {called['p99']:.1f} ms; read {', '.join(of['read'])}",
            )
        )
    return made
