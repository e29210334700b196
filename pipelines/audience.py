"""Audiences: events whose recipients are a topic's subscribers, or everybody, turned into lists a chunk at a time.

A chunk is the users behind `events.expanded_to`, in the order of their ids; once it is written, `expanded_to`
moves to its last. A crash in between repeats the chunk, whose ids are computed, so nobody is told twice. To the
audience belongs who was in it when the event was due (accepted, or its send_at) and still is when its chunk
comes: whoever joins later finds the next event, whatever his id.
"""

from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection
from psycopg.rows import args_row

from pipelines.accept import Accepted
from pipelines.stage import Resources
from schema.event import Audience, Event

CHUNK = 500
"""Users written at once: the inboxes of so many are locked together, for some 50 ms."""

_EVENT = """
SELECT id, type, importance, group_key, accepted_at, greatest(accepted_at, send_at) AS due, actor,
    recipients ->> 'topic' AS topic, expanded_to, expanded_at
FROM events
WHERE id = %s AND jsonb_typeof(recipients) = 'object' AND accepted_at IS NOT NULL AND cancelled_at IS NULL
    AND (expanded_at IS NULL OR expanded_to IS NOT NULL)
"""
_SUBSCRIBERS = """
SELECT user_id FROM topic_subscribers
WHERE topic = %(topic)s AND created_at <= %(due)s AND user_id IS DISTINCT FROM %(actor)s
"""
_EVERYBODY = "SELECT id AS user_id FROM users WHERE created_at <= %(due)s AND id IS DISTINCT FROM %(actor)s"
_COUNT = "SELECT count(*) FROM ({}) AS members"
_CHUNK = "SELECT user_id FROM ({}) AS members WHERE user_id > %(after)s ORDER BY user_id LIMIT %(chunk)s"
_BEGIN = """
UPDATE events SET recipient_count = %s, expanded_to = '', expanded_at = now()
WHERE id = %s AND expanded_at IS NULL AND cancelled_at IS NULL
"""
_MOVE = """
UPDATE events SET expanded_to = %(to)s, expanded_at = now(), rescues = 0,
    recipient_count = CASE WHEN %(to)s::text IS NULL THEN routed_count
        ELSE greatest(recipient_count, routed_count + 1) END
WHERE id = %(id)s AND expanded_to IN (%(after)s, %(to)s) AND cancelled_at IS NULL
"""


class Expanding(NamedTuple):
    """An event's row, as far as its expansion asks. `due`: who was in the audience then belongs to it."""

    id: str
    type: str
    importance: str | None
    group_key: str | None
    accepted_at: datetime
    due: datetime
    actor: str | None
    topic: str | None
    expanded_to: str | None
    expanded_at: datetime | None


class Chunk(NamedTuple):
    """The next of an audience. `after`: whom they come behind; `last`: who is to be the next chunk's `after`, None
    when nobody is left."""

    event: Accepted
    after: str
    last: str | None


def first_of(connection: Connection, event: Event, due: datetime, most: int) -> tuple[int, list[str]]:
    """How many an event's audience would be, and the first of them; it need not be stored."""
    topic = event.recipients.topic if isinstance(event.recipients, Audience) else None
    members = _EVERYBODY if topic is None else _SUBSCRIBERS
    told = {"topic": topic, "due": due, "actor": event.actor, "after": "", "chunk": most}
    ((count,),) = connection.execute(_COUNT.format(members), told)
    return count, [user for (user,) in connection.execute(_CHUNK.format(members), told)]


def next_chunk(event_id: str, use: Resources) -> Chunk | None:
    """None when there is nothing to do: the event was expanded, cancelled, or is gone. The first time, the
    audience is counted: `recipient_count` is what is expected, until the end knows it."""
    with use.pool.connection() as connection:
        found = connection.cursor(row_factory=args_row(Expanding)).execute(_EVENT, (event_id,)).fetchone()
        if found is None:
            return None
        members = _EVERYBODY if found.topic is None else _SUBSCRIBERS
        after = found.expanded_to or ""
        told: dict[str, Any] = {"topic": found.topic, "due": found.due, "actor": found.actor}
        if found.expanded_at is None:
            ((count,),) = connection.execute(_COUNT.format(members), told)
            connection.execute(_BEGIN, (count, event_id))
        chunk = connection.execute(_CHUNK.format(members), told | {"after": after, "chunk": CHUNK})
        users = [user for (user,) in chunk]
    event = Accepted(found.id, found.type, users, found.importance, found.group_key, found.accepted_at)
    return Chunk(event, after, users[-1] if len(users) == CHUNK else None)


def move_on(chunk: Chunk, use: Resources) -> bool:
    """The chunk was written. True if another is to follow; not when another process has moved on meanwhile, or the
    event was cancelled. Repeating it answers the same."""
    with use.pool.connection() as connection:
        moved = connection.execute(_MOVE, {"id": chunk.event.id, "after": chunk.after, "to": chunk.last})
        return bool(moved.rowcount and chunk.last is not None)
