"""A world in which everything may happen, as a Hypothesis state machine: what the fleet does, one step at a time,
on real servers, and what providers, people and misfortune do between any two of them.

The messages are those in Redis, taken off here instead of by processes. PostgreSQL's clock is set by `clock.jump`:
its now() is found before the one that comes with it (tests/integration/test_world.py).
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from psycopg_pool import AsyncConnectionPool
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from pipelines import accept
from pipelines.choices import Wanted
from pipelines.stage import Resources
from schema.delivery import Away, Gone, Later, Never, Outcome, Parcel, Sent, Unknown
from schema.notification import CHANNELS

USERS = ("ada", "bob", "cy")
TYPES = ("letter", "nudge", "note", "daily", "gathered")
"""At once, if unread after 15 minutes, digests, and one that groups from the second on."""
DUTIES = ("release_timers", "rescue_events", "end_leases", "send_due_deliveries", "refill")
"""Of the clock."""
ROUNDS = 30
"""Days that the end may take, of 25 hours: a mail is tried again and again, an event is
rescued at doubling intervals, and quiet hours pass."""

_GONE = """
DELETE FROM attempts; DELETE FROM deliveries; DELETE FROM notifications; DELETE FROM notification_groups;
DELETE FROM timers; DELETE FROM events; DELETE FROM preference_changes; DELETE FROM notification_preferences;
DELETE FROM opt_outs; DELETE FROM suppressed_addresses; DELETE FROM notification_analytics; DELETE FROM inboxes;
DELETE FROM topic_subscribers; DELETE FROM users; DELETE FROM dead_letters; UPDATE clock.jump SET by = '0';
INSERT INTO users (id, email) SELECT name, name || '@example.com' FROM unnest(ARRAY['ada', 'bob', 'cy']) AS name;
INSERT INTO topic_subscribers (topic, user_id, created_at)
    SELECT 'all', id, now() - interval '1 day' FROM users
"""
_REFUSED = """
SELECT n.id FROM notifications n
WHERE n.id = ANY(%(ids)s) AND (
    n.read_at IS NOT NULL
    OR n.importance <> 'critical' AND (
        EXISTS (SELECT FROM opt_outs o
            WHERE o.user_id = n.user_id AND o.channel = 'email' AND o.category IN ('', n.category))
        OR EXISTS (SELECT FROM notification_preferences p
            WHERE p.user_id = n.user_id AND p.scope = 'type' AND p.type = n.type
                AND p.channels -> 'email' = 'false')
    )
)
"""
_OPEN = """
SELECT (SELECT count(*) FROM deliveries WHERE state IN ('held', 'pending', 'sending', 'retrying'))
    + (SELECT count(*) FROM events WHERE routed_count < recipient_count) + (SELECT count(*) FROM timers)
"""
_MISSING = """
SELECT e.id, r.name FROM events e
CROSS JOIN LATERAL (
    SELECT * FROM jsonb_array_elements_text(
        CASE jsonb_typeof(e.recipients) WHEN 'array' THEN e.recipients ELSE '["ada", "bob", "cy"]' END)
) AS r (name)
LEFT JOIN notifications n ON n.event_id = e.id AND n.user_id = r.name
GROUP BY e.id, r.name HAVING count(n.id) > 1 OR count(n.id) = 0 AND bool_and(e.cancelled_at IS NULL)
"""
_WITHOUT_END = """
SELECT n.event_id, n.user_id, c.name FROM notifications n CROSS JOIN unnest(%s::text[]) AS c (name)
LEFT JOIN deliveries d ON d.notification_id = n.id AND d.channel = c.name
WHERE n.event_id IS NOT NULL AND (
    d.id IS NULL AND NOT n.closed ? c.name
    OR d.state IN ('held', 'pending', 'sending', 'retrying')
    OR d.state NOT IN ('sent', 'digested') AND d.reason IS NULL
)
"""
_MISCOUNTED = """
SELECT i.user_id, i.unread, count(n.id) FROM inboxes i
LEFT JOIN notifications n ON n.user_id = i.user_id AND n.read_at IS NULL AND n.seq IS NOT NULL
    AND n.group_id IS NULL
GROUP BY i.user_id HAVING i.unread <> count(n.id)
"""
_UNFINISHED = "SELECT delivery_id, number FROM attempts WHERE outcome = 'sending' OR ended_at IS NULL"
_UNKNOWN = """
SELECT delivery_id, count(*)::int FROM attempts WHERE outcome = 'unknown' GROUP BY delivery_id
"""
_COUNTED = "SELECT coalesce(sum(count), 0)::int FROM notification_analytics WHERE event = 'possible_duplicate'"
_UNTOLD = """
SELECT d.id, d.state, d.reason FROM deliveries d WHERE d.channel = 'email' AND d.digest_id IS NULL
    AND (d.state = 'sent') <> (d.id = ANY(%s))
    AND NOT EXISTS (SELECT FROM attempts a WHERE a.delivery_id = d.id AND (a.number > 1 OR a.outcome = 'unknown'))
"""
"""Of those that were tried once, with an answer."""


class Killed(BaseException):
    """The process is no more."""


class Mailer(ModuleType):
    """The email channel with a provider that does as it is told. `told`: by delivery, how often it was sent;
    `wrong`: of whom it should not have been."""

    NAME = SERVES = "email"
    SCHEDULE = (5, 300, 1800)
    BATCH = 3
    LEASE = 22

    def __init__(self, query: Any) -> None:
        super().__init__("mailer")
        self._query = query
        self.answers: list[Outcome] = []
        self.dies: str | None = None
        self.meanwhile: Callable[[], None] | None = None
        self.told: dict[UUID, int] = defaultdict(int)
        self.wrong: list[Any] = []

    def send(self, parcels: Sequence[Parcel], _: Resources) -> list[Outcome]:
        dies, self.dies = self.dies, None
        if dies == "before":
            raise Killed
        outcomes = [self.answers.pop(0) if self.answers else Sent() for _ in parcels]
        self.wrong += self._query(_REFUSED, {"ids": [parcel.notification for parcel in parcels]})
        if meanwhile := self.meanwhile:
            self.meanwhile = None
            meanwhile()
        for parcel, outcome in zip(parcels, outcomes, strict=True):
            if dies or isinstance(outcome, Sent | Unknown):
                self.told[parcel.delivery] += 1
        if dies == "after":
            raise Killed
        return outcomes


class Given(NamedTuple):
    """What a test has for its worlds. `fleet`: modules that may be imported only now."""

    database_url: str
    redis: Redis
    runner: asyncio.Runner
    fleet: Any


class World(RuleBasedStateMachine):
    given: Given

    def __init__(self) -> None:
        super().__init__()
        self.fleet, self.redis = self.given.fleet, self.given.redis
        self.connection = psycopg.connect(self.given.database_url, autocommit=True)
        self.connection.execute(_GONE)
        self.redis.flushall()
        self.jumped = 0.0
        self.mailer = Mailer(self.query)
        self.circuit = self.new_circuit()
        self.events: list[dict[str, Any]] = []

    def query(self, sql: str, values: Any = ()) -> list[Any]:
        return self.connection.execute(sql, values).fetchall()

    def new_circuit(self) -> Any:
        return self.fleet.circuit.Circuit("email", lambda: self.jumped)

    # What backend services do

    @rule(
        kind=st.sampled_from(TYPES),
        to=st.lists(st.sampled_from(USERS), min_size=1, unique=True) | st.just({"topic": "all"}),
        critical=st.integers(0, 9).map(lambda dice: dice == 0),
        later=st.sampled_from([None, None, None, 600]),
        lost=st.booleans(),
    )
    def accept(self, kind: str, to: Any, critical: bool, later: int | None, lost: bool) -> None:
        number = len(self.events)
        data = {"userName": "Bob", "comment": f"e{number}", "postId": 1, "commentId": "c"}
        event: dict[str, Any] = {"id": f"e{number}", "type": kind, "recipients": to, "data": data}
        if critical:
            event["importance"] = "critical"
        if later:
            ((event["send_at"],),) = self.query("SELECT to_json(now() + %s * interval '1 s') #>> '{}'", (later,))
        self.events.append(event)
        assert self.take(event, lost) == ["accepted"]

    @precondition(lambda self: self.events)
    @rule(which=st.integers(0, 99), lost=st.booleans())
    def repeat(self, which: int, lost: bool) -> None:
        assert self.take(self.events[which % len(self.events)], lost) == ["duplicate"]

    def take(self, event: dict[str, Any], lost: bool) -> list[str]:
        """As all doors do; the process may die before it sends what it stored."""
        arrival = accept.read(msgspec.json.encode(event), self.fleet.resources.catalog())
        with self.fleet.resources.pool().connection() as connection:
            (verdict,), ready = accept.accept(connection, "http", [[arrival]])
        if not lost:
            self.fleet.chain.start(ready)
        return verdict.statuses

    @precondition(lambda self: self.events)
    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        id_ = self.events[which % len(self.events)]["id"]
        assert self.fleet.cancellation.cancel(self.connection, id_).id == id_

    # What workers do, and how they end

    def queued(self) -> list[tuple[str, bytes, Any]]:
        found = []
        for queue in self.fleet.queues.QUEUES:
            for key in self.redis.lrange(f"tocsin:{queue}", 0, -1):
                raw = self.redis.hget(f"tocsin:{queue}.msgs", key)
                found.append((queue, key, msgspec.json.decode(raw, type=self.fleet.broker.Envelope)))
        return found

    @precondition(lambda self: self.queued())
    @rule(which=st.integers(0, 99), dies=st.sampled_from([None, None, None, "before its ack", "before it sends"]))
    def work(self, which: int, dies: str | None = None) -> None:
        """On any message, in whatever order."""
        messages = self.queued()
        queue, key, envelope = messages[which % len(messages)]
        try:
            self.handle(queue, envelope)
        except Killed:
            self.circuit = self.new_circuit()
            return
        if dies == "before it sends":
            self.drop({key for _, key, _ in self.queued()} - {key for _, key, _ in messages})
        if dies is None:
            self.drop({key})

    @rule()
    def all_work(self) -> None:
        for _ in range(100):
            if not self.queued():
                return
            self.work(0)

    def handle(self, queue: str, envelope: Any) -> None:
        (argument,) = envelope.args
        if envelope.actor_name == "expand":
            self.fleet.chain.expand(argument)
        elif not queue.startswith("deliver-"):
            self.fleet.chain.chain(argument)
        else:
            ids = msgspec.json.decode(argument, type=self.fleet.wire.Deliveries).deliveries
            channel = self.mailer if queue == "deliver-email" else self.fleet.web
            self.fleet.deliver.deliver(channel, ids, self.fleet.resources.resources(), self.circuit)

    def drop(self, keys: set[bytes]) -> None:
        for queue, key, _ in self.queued():
            if key in keys:
                self.redis.lrem(f"tocsin:{queue}", 0, key)
                self.redis.hdel(f"tocsin:{queue}.msgs", key)

    @rule(duty=st.sampled_from(DUTIES))
    def clock(self, duty: str) -> None:
        getattr(self.fleet.clock, duty)()

    @rule(seconds=st.sampled_from([16, 1000, 4000, 90_000]))
    def later(self, seconds: int) -> None:
        """So much time passes, and the clock has seen to everything."""
        self.jump(seconds)
        for duty in DUTIES:
            self.clock(duty)

    # What befalls them

    @rule(
        answers=st.lists(
            st.sampled_from(
                [Sent(), Later("deferred"), Unknown("timeout"), Away("busy"), Never("refused"), Gone("nobody")]
            ),
            min_size=1,
            max_size=4,
        )
    )
    def the_provider_answers(self, answers: list[Outcome]) -> None:
        self.mailer.answers = answers

    @rule(what=st.sampled_from(["dies before", "dies after", "hangs", "hangs, then dies", "Redis is emptied"]))
    def befalls(self, what: str) -> None:
        """The next process that sends a mail dies beside its answer, or hears of it only long after its lease has
        ended; and another that is not so slow may die meanwhile."""
        if what == "Redis is emptied":
            self.redis.flushall()
        elif what.startswith("dies"):
            self.mailer.dies = what.removeprefix("dies ")
        else:
            self.hangs("after" if "dies" in what else None)

    def hangs(self, dies: str | None) -> None:

        def another() -> None:
            self.mailer.dies = dies
            self.jump(60)
            for duty in DUTIES:
                self.clock(duty)
            for number, (queue, _, _) in enumerate(self.queued()):
                if queue == "deliver-email":
                    self.work(number)
                    return

        self.mailer.meanwhile = another

    @precondition(lambda self: self.queued())
    @rule(which=st.integers(0, 99))
    def lose(self, which: int) -> None:
        messages = self.queued()
        self.drop({messages[which % len(messages)][1]})

    @rule(seconds=st.sampled_from([-3600, -10, 1, 6, 30, 1000, 4000, 90_000]))
    def jump(self, seconds: int) -> None:
        """PostgreSQL's clock is set, or so much time passes."""
        self.jumped += abs(seconds)
        self.connection.execute("UPDATE clock.jump SET by = by + %s * interval '1 s'", (seconds,))

    # What people do

    @rule(
        user=st.sampled_from(USERS),
        category=st.sampled_from(["", "social", "news"]),
        out=st.booleans(),
    )
    def unsubscribe(self, user: str, category: str, out: bool) -> None:
        self.want(user, {"opt_outs": [{"channel": "email", "category": category, "out": out}]})

    @rule(
        user=st.sampled_from(USERS),
        kind=st.sampled_from(TYPES),
        wish=st.sampled_from([True, False, None, "now", "digest 1h", "if unread after 15m"]),
    )
    def prefer(self, user: str, kind: str, wish: Any) -> None:
        self.want(user, {"preferences": [{"type": kind, "channels": {"email": wish}}]})

    def want(self, user: str, said: dict[str, Any]) -> None:
        self.fleet.preferences.store(user, msgspec.convert(said, Wanted))

    @rule(user=st.sampled_from(USERS), to=st.sampled_from([None, "01:00", "12:00"]))
    def rest(self, user: str, to: str | None) -> None:
        hours = to and {"from": "00:00", "to": to}
        said = {"time_zone": "Europe/Berlin", "quiet_hours": hours}
        self.fleet.times.store(user, msgspec.convert(said, self.fleet.times.Times))

    @rule(user=st.sampled_from(USERS), which=st.integers(0, 99), verb=st.sampled_from(["read", "archive", "all"]))
    def read(self, user: str, which: int, verb: Any) -> None:
        rows = self.query("SELECT id FROM notifications WHERE user_id = %s AND seq > 0 ORDER BY seq", (user,))
        if rows:
            self.given.runner.run(self.change(user, rows[which % len(rows)][0], verb))

    async def change(self, user: str, id_: UUID, verb: Any) -> None:
        async with (
            AsyncConnectionPool(
                self.given.database_url, open=False, min_size=1, max_size=1, kwargs={"autocommit": True}
            ) as pool,
            AsyncRedis.from_url(self.fleet.settings.settings().redis_url) as redis,
        ):
            changes = self.fleet.changes.Changes(pool, redis)
            await (changes.read_all(user) if verb == "all" else changes.change(user, id_, verb))

    # What must be true in the end

    def teardown(self) -> None:
        try:
            self.come_to_an_end()
            self.judge()
        finally:
            self.connection.close()

    def come_to_an_end(self) -> None:
        """Nothing goes wrong any more, and time passes."""
        self.mailer.answers, self.mailer.dies, self.mailer.meanwhile = [], None, None
        for _ in range(ROUNDS):
            for duty in DUTIES:
                self.clock(duty)
            while self.queued():
                self.work(0)
            if self.query(_OPEN) == [(0,)]:
                return
            self.jump(90_000)
        raise AssertionError(f"still open after {ROUNDS} rounds: {self.query(_OPEN)}")

    def judge(self) -> None:
        assert self.mailer.wrong == [], "nothing is sent that was read, or that nobody wants"
        assert self.query(_MISSING) == [], "each recipient has one notification of each event"
        assert self.query(_WITHOUT_END, (list(CHANNELS),)) == [], "every channel of each has an end, and a reason"
        assert self.query(_MISCOUNTED) == [], "the unread count is that of the rows"
        assert self.query(_UNFINISHED) == [], "every try has an end"
        unknown = dict(self.query(_UNKNOWN))
        ((counted,),) = self.query(_COUNTED)
        again = sum(times - 1 for times in self.mailer.told.values())
        assert again <= counted, "what is told twice is counted"
        assert sum(unknown.values()) <= counted, "so is what may have been"
        assert self.query(_UNTOLD, (list(self.mailer.told),)) == [], "sent is what the provider has"
