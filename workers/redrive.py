"""What a person decides about dead letters: replay them, discard them; and pruning what was decided long ago.

Replay     a delivery becomes `retrying` with a time at which it is due, one after the other at a given rate, and
           its schedule begins anew; the clock sends it then, and nothing waits here. A message goes back to its
           queue at once.
Discard    a delivery becomes failed(discarded); a message is marked.
Repeats    safely, and by several at once: rows are locked, looked at again under the lock, and left to whoever has
           locked them first, so each letter is decided on once; a call tells of those that it decided on itself.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from uuid import UUID

import dramatiq
import msgspec
from dramatiq.errors import ConnectionClosed
from psycopg import Connection

from schema.errors import TocsinError
from workers.dead import Which, split

RATE = 50.0
"""Deliveries that become due in a second."""
ROUND = 500
"""Rows locked at once."""

_LOCKED = """
WITH locked AS (
    SELECT d.id FROM deliveries d WHERE {deliveries} AND d.id > %(after)s
    ORDER BY d.id LIMIT %(round)s FOR UPDATE SKIP LOCKED
)"""
_REPLAY = f"""{_LOCKED}, placed AS (
    SELECT id, (%(done)s + row_number() OVER (ORDER BY id) - 1) / %(rate)s::float8 AS seconds FROM locked
)
UPDATE deliveries d SET state = 'retrying', reason = NULL, settled_at = NULL, replayed_after = d.attempt,
    next_attempt_at = now() + p.seconds * interval '1 second'
FROM placed p WHERE d.id = p.id AND d.state = 'dead' RETURNING d.id
"""
_DISCARD = f"""{_LOCKED}
UPDATE deliveries d SET state = 'failed', reason = 'discarded', settled_at = now()
FROM locked l WHERE d.id = l.id AND d.state = 'dead' RETURNING d.id
"""
_MESSAGES = """
SELECT l.id, l.queue, l.actor, l.message FROM dead_letters l WHERE {messages} AND l.id > %(after)s
ORDER BY l.id LIMIT %(round)s FOR UPDATE SKIP LOCKED
"""
_REPLAYED = "UPDATE dead_letters SET replayed_at = now() WHERE id = ANY(%s::bigint[])"
_DISCARDED = "UPDATE dead_letters SET discarded_at = now() WHERE id = ANY(%s::bigint[])"
_STATES = """
SELECT 'd-' || id, state FROM deliveries WHERE id = ANY(%(deliveries)s::uuid[])
UNION ALL
SELECT 'm-' || id, CASE WHEN replayed_at IS NOT NULL THEN 'replayed' WHEN discarded_at IS NOT NULL THEN 'discarded'
    ELSE 'dead' END
FROM dead_letters WHERE id = ANY(%(messages)s::bigint[])
"""
_PRUNE = """
DELETE FROM dead_letters WHERE id IN (
    SELECT id FROM dead_letters WHERE created_at < %(before)s AND greatest(replayed_at, discarded_at) < %(before)s
    ORDER BY id LIMIT %(round)s FOR UPDATE SKIP LOCKED
)
"""


class Left(msgspec.Struct):
    """A letter that was asked for, and stays as it is."""

    id: str
    why: str


class Decided(msgspec.Struct):
    """How many deliveries and messages this call replayed, or discarded, itself."""

    deliveries: int
    messages: int
    left: list[Left]


class Call(msgspec.Struct):
    """What workers/middleware.py keeps of a message: its arguments, as they were."""

    args: list[msgspec.Raw]
    kwargs: dict[str, msgspec.Raw]


Message = tuple[int, str, str, str]
"""A dead one: id, queue, actor, content."""


class Interrupted(TocsinError):
    """Redis went away between two messages; what was replayed until then is."""


def replay(connection: Connection, which: Which, rate: float = RATE) -> Decided:
    """Replays everything dead that fits. Raises Interrupted when Redis does not take messages, and TocsinError for
    an id that is none."""
    refused: dict[str, str] = {}
    away = False

    def enqueue(rows: list[Message]) -> list[int]:
        nonlocal away
        good = []
        for id_, queue, actor, message in rows:
            try:
                again(queue, actor, message)
            except TocsinError as why:
                refused[f"m-{id_}"] = str(why)
            except ConnectionClosed:
                away = True
                break
            else:
                good.append(id_)
        return good

    sent = list(deliveries(connection, _REPLAY, which, rate))
    enqueued = []
    for ids in messages(connection, _REPLAYED, which, enqueue):
        enqueued += ids
        if away:
            done = f"{len(sent):,} deliveries and {len(enqueued):,} messages were replayed"
            raise Interrupted(f"Redis does not answer: {done}, and the other messages stay dead")
    return Decided(len(sent), len(enqueued), left(connection, which, {*sent, *enqueued}, refused))


def discard(connection: Connection, which: Which) -> Decided:
    """Gives up everything dead that fits, for good. Raises TocsinError for an id that is none."""
    failed = list(deliveries(connection, _DISCARD, which))
    rounds = messages(connection, _DISCARDED, which, lambda rows: [id_ for id_, *_ in rows])
    marked = [id_ for ids in rounds for id_ in ids]
    return Decided(len(failed), len(marked), left(connection, which, {*failed, *marked}, {}))


def prune(connection: Connection, before: datetime) -> int:
    """Deletes messages that were replayed or discarded before that instant; how many. Dead ones stay, however old;
    deliveries go with their month."""
    pruned = 0
    while True:
        with connection.transaction():
            done = connection.execute(_PRUNE, {"before": before, "round": ROUND}).rowcount
        pruned += done
        if done < ROUND:
            return pruned


def deliveries(connection: Connection, decide: str, which: Which, rate: float = RATE) -> Iterator[UUID]:
    """Decides on deliveries in rounds, each committed by itself, along their ids: what dies again meanwhile is not
    met twice."""
    conditions, values = which.conditions()
    statement = decide.format(**conditions)
    done, after = 0, UUID(int=0)
    while True:
        values |= {"after": after, "done": done, "rate": rate, "round": ROUND}
        with connection.transaction():
            ids = [id_ for (id_,) in connection.execute(statement, values)]
        yield from ids
        if len(ids) < ROUND:
            return
        done, after = done + len(ids), max(ids)


def messages(
    connection: Connection, mark: str, which: Which, decide: Callable[[list[Message]], list[int]]
) -> Iterator[list[int]]:
    """Shows `decide` the messages a round at a time, locked, and marks those it answers. A crash in between leaves
    them dead: to replay one again is safe, as every message is."""
    conditions, values = which.conditions()
    after = 0
    while True:
        with connection.transaction():
            arguments = values | {"after": after, "round": ROUND}
            rows: list[Message] = connection.execute(_MESSAGES.format(**conditions), arguments).fetchall()
            good = decide(rows)
            connection.execute(mark, (good,))
        yield good
        if len(rows) < ROUND:
            return
        after = rows[-1][0]


def again(queue: str, actor: str, message: str) -> None:
    """Puts a message back, by itself: no other is worked off in one call with it. Raises TocsinError when nothing
    could run it, dramatiq's ConnectionClosed when Redis is away."""
    from workers.chain import ACTORS  # noqa: F401  (declares every actor)

    broker = dramatiq.get_broker()
    try:
        call = msgspec.json.decode(message, type=Call)
    except msgspec.DecodeError:
        raise TocsinError("it could not be read when it came, so nothing can run it: discard it") from None
    if actor not in broker.actors:
        raise TocsinError(f"nothing here runs {actor!r}: replay it where something does, or discard it")
    broker.enqueue(dramatiq.Message(queue, actor, tuple(call.args), dict(call.kwargs), {}))


def left(connection: Connection, which: Which, done: set[UUID | int], refused: dict[str, str]) -> list[Left]:
    """Why letters that were asked for by their ids stayed; without ids, only those that were refused."""
    asked = split(which.ids or ())
    with connection.transaction():
        states: dict[str, str] = dict(connection.execute(_STATES, asked).fetchall())
    for kind in ("d", "m"):
        for id_ in asked[{"d": "deliveries", "m": "messages"}[kind]]:
            state = states.get(f"{kind}-{id_}")
            if id_ not in done:
                why = "no such dead letter" if state is None else f"it is {state}, not dead"
                refused.setdefault(f"{kind}-{id_}", "somebody else has it in hand" if state == "dead" else why)
    return [Left(*each) for each in refused.items()]
