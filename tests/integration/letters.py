"""Dead letters and their tries as rows, for tests of what people see and decide."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg

from schema.identity import delivery_id, milliseconds_of, notification_id

Died = Callable[..., str]


class Letters:
    """Writes to the database at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            done = connection.execute(sql, values)
            return done.fetchall() if done.description else []

    def delivery(
        self,
        reason: str = "mailbox_busy",
        channel: str = "email",
        type: str = "comment",
        ago: timedelta = timedelta(),
        state: str = "dead",
        tries: int = 7,
        said: str = "450 mailbox busy",
    ) -> str:
        """A notification with one delivery, tried so often; the id that people type."""
        user, died = f"user-{uuid4().hex[:12]}", datetime.now(UTC) - ago
        accepted = died - timedelta(seconds=30)
        notification = notification_id(milliseconds_of(accepted), f"e-{user}", user)
        delivery = delivery_id(notification, channel)
        self.run(
            "INSERT INTO notifications (id, event_id, user_id, type, category, importance, title, message)"
            " VALUES (%s, %s, %s, %s, 'social', 'normal', 'A secret title', 'A secret message')",
            notification,
            f"e-{user}",
            user,
            type,
        )
        self.run(
            "INSERT INTO deliveries (id, notification_id, user_id, channel, state, reason, attempt, created_at,"
            " settled_at, next_attempt_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            *(delivery, notification, user, channel, state, reason, tries, accepted, died, died),
        )
        self.run(
            "INSERT INTO attempts (delivery_id, number, outcome, reason, said, started_at, ended_at)"
            " SELECT %s, n, 'later', %s, %s, %s + n * interval '1 s', %s + n * interval '1.2 s'"
            " FROM generate_series(1, %s) AS n",
            *(delivery, reason, said, accepted, accepted, tries),
        )
        return f"d-{delivery}"

    def message(
        self,
        cause: str = "KeyError: 'a secret'",
        queue: str = "pipeline",
        actor: str = "pipeline",
        message: str = '{"args":[{"notifications":[],"v":1}],"kwargs":{}}',
        ago: timedelta = timedelta(),
    ) -> str:
        ((id_,),) = self.run(
            "INSERT INTO dead_letters (queue, actor, message, cause, trace, created_at)"
            " VALUES (%s, %s, %s, %s, %s, now() - %s) RETURNING id",
            *(queue, actor, message, cause, f"Traceback\n  somewhere\n{cause}", ago),
        )
        return f"m-{id_}"

    def row(self, id_: str) -> dict[str, Any]:
        kind, _, rest = id_.partition("-")
        table, key = ("deliveries", UUID(rest)) if kind == "d" else ("dead_letters", int(rest))
        ((found,),) = self.run(f"SELECT to_jsonb(t) FROM {table} t WHERE id = %s", key)
        return dict(found)
