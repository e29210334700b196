"""The same work by hand: what this machine can do when nothing stands between the driver and the rows.

    python -m tests.benchmarks.bare_loop DATABASE_URL REDIS_URL NAME

Reads the stream in 500s and makes every row that the fleet makes for a web notification, in as many commits:
event, routed mark, inbox, notification, delivery, settled delivery; looks up preferences, charges rate limits,
keeps the grouping window, publishes, acknowledges. It does none of what the fleet does besides: no validation, no
templates, no repeats, no groups, no rescue, and one process does every step.
"""

import hashlib
import os
import sys
import time
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, cast
from uuid import UUID

import msgspec
import psycopg
import redis

STREAM, GROUP = "tocsin:events", "bare"
EVENTS = "COPY events (id, type, recipients, data, door, accepted_at, body_hash, recipient_count) FROM STDIN"
PREFERENCES = """SELECT user_id, type, enabled, channels FROM notification_preferences
    WHERE user_id = ANY(%s) AND type = ANY(%s)"""
LOCK = "SELECT user_id, seq, unread, windows FROM inboxes WHERE user_id = ANY(%s) ORDER BY user_id FOR UPDATE"
MOVE = """UPDATE inboxes i SET seq = m.seq, unread = m.unread, version = version + 1, windows = m.windows
    FROM json_to_recordset(%s) AS m (user_id text, seq bigint, unread int, windows jsonb)
    WHERE i.user_id = m.user_id"""
NOTIFICATIONS = """COPY notifications (id, event_id, user_id, seq, type, category, importance, title, message,
    action_url, data, closed) FROM STDIN"""
DELIVERIES = "COPY deliveries (id, notification_id, user_id, channel) FROM STDIN"
ROUTED = "UPDATE events SET routed_count = 1 WHERE id = ANY(%s)"
SETTLE = """WITH settled AS (
    UPDATE deliveries SET state = 'sent', attempt = 1, settled_at = now() WHERE id = ANY(%s) RETURNING id
)
INSERT INTO notification_analytics (type, event, hour, shard, count)
SELECT 'comment', 'sent', date_trunc('hour', now()), pg_backend_pid() %% 8, count(*) FROM settled
ON CONFLICT (type, event, hour, shard) DO UPDATE SET count = notification_analytics.count + excluded.count"""
CLOSED = '{"push": "type_default", "email": "type_default"}'
NAMES = ("id", "event", "user", "seq", "type", "category", "importance", "title", "message", "actionUrl")
PUBLISH = "for i, channel in ipairs(KEYS) do redis.call('PUBLISH', channel, ARGV[i]) end"
HOUR = 3_600_000
encode = msgspec.json.encode


def uuid7(ms: int) -> UUID:
    return UUID(int=ms << 80 | 7 << 76 | 0b10 << 62 | int.from_bytes(os.urandom(7), "big"))


def copy(db: psycopg.Connection[Any], statement: str, rows: list[tuple[Any, ...]]) -> None:
    text = "".join("\t".join(map(str, row)).replace("\\", "\\\\") + "\n" for row in rows)
    with db.cursor().copy(statement) as into:
        into.write(text)


def work(db: psycopg.Connection[Any], client: redis.Redis, charge: Any, publish: Any, entries: list[Any]) -> None:
    events = [(msgspec.json.decode(fields[b"event"]), fields[b"event"]) for _, fields in entries]
    now, ms = datetime.now(UTC).isoformat(), time.time_ns() // 1_000_000
    hashes = [f"\\x{hashlib.sha256(raw).hexdigest()}" for _, raw in events]
    copy(db, EVENTS, [
        (e["id"], e["type"], encode(e["recipients"]).decode(), encode(e["data"]).decode(), "stream", now, hash_, 1)
        for (e, _), hash_ in zip(events, hashes, strict=True)
    ])  # fmt: skip
    users = [e["recipients"][0] for e, _ in events]
    off = {user for user, _, enabled, _ in db.execute(PREFERENCES, (users, ["comment"])) if not enabled}
    ids = [uuid7(ms) for _ in events]
    within = charge(
        keys=[f"tocsin:limit:comment:{user}" for user in users],
        args=[value for id_ in ids for value in (str(id_), 10, HOUR * 1000)],
    )
    going = [(*rest, e) for ok, *rest, (e, _) in zip(within, ids, users, events, strict=True) if ok]
    going = [(id_, user, e) for id_, user, e in going if user not in off]
    with db.transaction():
        inboxes = {user: rest for user, *rest in db.execute(LOCK, (users,))}
        rows, channels, said = [], [], []
        for id_, user, e in going:
            inbox, data = inboxes[user], e["data"]
            inbox[0], inbox[1] = inbox[0] + 1, inbox[1] + 1
            window = inbox[2].setdefault("comment/", {"leading": [], "group": None, "count": 0, "at": ms})
            recent = [entry for entry in window["leading"] if entry[1] > ms - HOUR]
            window["leading"], window["at"] = [*recent, [str(id_), ms]], ms
            url = f"/posts/{data['postId']}#comment-{data['commentId']}"
            title = f"New comment from {data['userName']}"
            shown = (id_, e["id"], user, inbox[0], "comment", "social", "normal", title, data["comment"], url)
            rows.append((*shown, encode(data).decode(), CLOSED))
            item = dict(zip(NAMES, shown, strict=True)) | {"data": data, "createdAt": now, "read": False}
            channels.append(f"tocsin:user:{user}")
            said.append(encode({"kind": "notification", "version": inbox[0], "unread": inbox[1], "item": item}))
        moved = [{"user_id": u, "seq": s, "unread": n, "windows": w} for u, (s, n, w) in inboxes.items()]
        db.execute(MOVE, (encode(moved).decode(),))
        copy(db, NOTIFICATIONS, rows)
        deliveries = [(uuid7(ms), id_, user, "web") for id_, user, _ in going]
        copy(db, DELIVERIES, deliveries)
        db.execute(ROUTED, ([e["id"] for e, _ in events],))
    publish(keys=channels, args=said)
    db.execute(SETTLE, ([row[0] for row in deliveries],))
    with client.pipeline(transaction=False) as pipe:
        numbers = [number for number, _ in entries]
        pipe.xack(STREAM, GROUP, *numbers)
        pipe.xdel(STREAM, *numbers)
        pipe.execute()


def main(database_url: str, redis_url: str, name: str) -> None:
    script = files("pipelines").joinpath("rate_limits.lua").read_text()
    with psycopg.connect(database_url, autocommit=True) as db, redis.Redis.from_url(redis_url) as client:
        charge = client.register_script(script)
        publish = client.register_script(PUBLISH)
        print("ready", flush=True)  # noqa: T201
        while True:
            read = cast("Any", client.xreadgroup(GROUP, name, {STREAM: ">"}, count=500, block=1000))
            if read:
                work(db, client, charge, publish, read[0][1])


if __name__ == "__main__":
    main(*sys.argv[1:])
