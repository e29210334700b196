"""Hub: hands every change of an inbox to all live connections of its user, each once and in order.

Publications (schema.wire.Publication on `tocsin:user:{id}`) may be lost, repeated, or come out of order; Postgres
knows better. A change takes the lock of the user's inbox, so `seq` follows the order of commits, and the database
is complete up to any seq that somebody has published. What is known of a user, and what follows from a
publication, says workers/gateway/watched.py; here is what has to be asked for:

    rows are missing   one task of that user fetches them
    every 15 s         one query compares all users with `inboxes`: whatever was lost is found and sent, and a
                       change nobody told us of becomes `gap`, on which a browser reloads its list; at once when
                       Redis is back
    connect            subscribe, then read the inbox, then what came meanwhile and is newer

A user's subscription outlives the last connection by a round of that comparison: people change pages.
"""

import asyncio
import random
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from psycopg import Error as PostgresError

from schema.wire import InboxItem, Publication, user_channel
from workers import log
from workers.gateway import counters, inbox
from workers.gateway.connection import Connection, Event
from workers.gateway.inbox import Pool
from workers.gateway.refusal import Refused
from workers.gateway.states import States
from workers.gateway.subscriptions import Subscriptions
from workers.gateway.tasks import Tasks
from workers.gateway.watched import Watched, gap, notification, unread_count

CONNECTIONS_PER_USER = 50
WINDOW = 500
"""Rows told again to who resumes; beyond that a `gap`."""
RECONCILE = 15.0
"""Seconds between comparisons with Postgres."""
GRACE = 0.5
"""Seconds a publication may take before it counts as lost."""
_AT_ONCE = 1000

_publications = msgspec.json.Decoder(Publication)


class Opening(NamedTuple):
    """What a browser is told first, and the place it stands at before that."""

    place: int
    events: list[Event]


class Hub:
    def __init__(
        self,
        pool: Pool,
        redis_url: str,
        reconcile_seconds: float = RECONCILE,
        grace: float = GRACE,
        window: int = WINDOW,
    ) -> None:
        self._pool, self._reconcile_seconds, self._grace, self._window = pool, reconcile_seconds, grace, window
        self._watched: dict[bytes, Watched] = {}
        self._redis_is_back = asyncio.Event()
        self._subscriptions = Subscriptions(redis_url, self._heard, self._redis_is_back.set)
        self._tasks = Tasks()
        self._states = States(pool, self._tasks)

    async def start(self) -> None:
        self._tasks.spawn(self._subscriptions.run())
        self._tasks.spawn(self._reconcile_for_ever())

    async def stop(self) -> None:
        self.end_all("shutdown")
        await self._tasks.stop()
        await self._subscriptions.aclose()

    def end_all(self, why: str) -> None:
        for watched in self._watched.values():
            for connection in list(watched.connections):
                connection.end(why)

    def present(self) -> set[str]:
        """Users of whom somebody looks at a page that is connected here."""
        return {watched.user for watched in self._watched.values() if watched.present}

    def admit(
        self,
        user: str,
        expires: float,
        transport: str,
        wake: Callable[[], None],
        name: str | None = None,
        visible: bool = True,
    ) -> Connection:
        """A new connection, which must be given to `leave` in the end. Raises Refused: too many of that user."""
        channel = user_channel(user).encode()
        watched = self._watched.setdefault(channel, Watched(user))
        if len(watched.connections) >= CONNECTIONS_PER_USER:
            raise Refused(
                429,
                f"at most {CONNECTIONS_PER_USER} live connections per user and gateway: close some",
                headers={"retry-after": "30"},
            )
        connection = Connection(user, expires, transport, wake, name, visible)
        watched.connections.add(connection)
        watched.idle = 0
        counters.CONNECTIONS[transport].inc()
        return connection

    async def open(self, connection: Connection, after: int | None) -> Opening:
        """Subscribes, reads the inbox, and returns what to tell first; what comes after waits in the connection.
        `after`: the last place this browser has seen. Raises psycopg.OperationalError: Postgres is away."""
        channel = user_channel(connection.user).encode()
        await self._subscriptions.add(channel)
        state = await self._states.of(connection.user)
        missed = await self._missed(connection.user, after, state.seq)
        watched = self._watched[channel]
        now = watched.read(state)
        connection.begin(state.seq, state.version, reload=gap("changed"))
        self._fetch(watched)
        events = [unread_count(now.unread, now.version)]
        if missed is None:
            return Opening(now.seq, [*events, gap("too far back", now.seq)])
        events += [notification(item) for item in missed]
        return Opening(now.seq if after is None else after, events)

    async def _missed(self, user: str, after: int | None, upto: int) -> list[InboxItem] | None:
        """What came since the place `after`; None when it is too much, or when the inbox never was there. A group
        that moved on meanwhile is missing: its new place is beyond `upto`, and told live."""
        if after is None or after == upto:
            return []
        if after > upto:
            return None
        async with self._pool.connection() as db:
            found = await inbox.after(db, [(user, after, upto)], self._window)
        return [item for _, item in found] if len(found) <= self._window else None

    def leave(self, connection: Connection) -> None:
        watched = self._watched[user_channel(connection.user).encode()]
        watched.connections.discard(connection)
        counters.CONNECTIONS[connection.transport].dec()
        if not watched.connections:
            watched.forget()

    def _heard(self, channel: bytes, data: bytes) -> None:
        watched = self._watched.get(channel)
        if watched is None or not watched.connections:
            return
        try:
            publication = _publications.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.logger().warning("publication_unreadable", error=type(error).__name__)
            return
        watched.hear(publication)
        self._fetch(watched)

    def _fetch(self, watched: Watched) -> None:
        if watched.misses_rows and not watched.fetching:
            watched.fetching = True
            self._tasks.spawn(self._fetch_missing(watched))

    async def _fetch_missing(self, watched: Watched) -> None:
        try:
            while watched.misses_rows:
                upto = watched.wanted
                async with self._pool.connection() as db:
                    found = await inbox.after(db, [(watched.user, watched.seq or 0, upto)], self._window)
                watched.hand_on_until([item for _, item in found], upto, self._window)
        except PostgresError as error:
            log.logger().warning("rows_not_fetched", error=type(error).__name__)  # the comparison finds them
        finally:
            watched.fetching = False

    async def _reconcile_for_ever(self) -> None:
        while True:
            grace = self._grace
            try:
                async with asyncio.timeout(self._reconcile_seconds * random.uniform(0.9, 1)):  # noqa: S311
                    await self._redis_is_back.wait()
                self._redis_is_back.clear()
                grace = 0
            except TimeoutError:
                self._forget_idle()
            try:
                await self.reconcile(grace)
            except PostgresError as error:
                log.logger().warning("not_reconciled", error=type(error).__name__)
            except Exception:  # a bug of ours; the next round comes all the same
                log.logger().exception("not_reconciled")
            await self._subscriptions.probe()

    async def reconcile(self, grace: float) -> None:
        """Compares every user here with Postgres and sends what is missing for longer than `grace` seconds.
        Raises psycopg.OperationalError; what was missed is found by the next round."""
        users = [watched for watched in self._watched.values() if watched.seq is not None]
        for begin in range(0, len(users), _AT_ONCE):
            chunk = {watched.user: watched for watched in users[begin : begin + _AT_ONCE]}
            known = {user: (watched.seq or 0, watched.version) for user, watched in chunk.items()}
            async with self._pool.connection() as db:
                states = await inbox.states(db, list(chunk))
            # What is known comes from commits before that query: an inbox that is behind it has gone back.
            went_back = [
                user
                for user, (seq, version) in known.items()
                if (states[user].seq < seq or states[user].version < version) and chunk[user].seq is not None
            ]
            for user in went_back:
                chunk[user].start_over(states[user])
            if went_back:
                log.logger().warning("inboxes_went_back", count=len(went_back))
            behind = [user for user in chunk if chunk[user].is_behind(states[user])]
            if not behind:
                continue
            await asyncio.sleep(grace)
            still = [user for user in behind if chunk[user].is_behind(states[user])]
            places = [(user, chunk[user].seq or 0, states[user].seq) for user in still]
            async with self._pool.connection() as db:
                items = await inbox.after(db, places, self._window)
            missing: dict[str, list[InboxItem]] = {user: [] for user in still}
            for user, item in items:
                missing[user].append(item)
            for user in still:
                chunk[user].make_good(states[user], missing[user], self._window)

    def _forget_idle(self) -> None:
        """Ends subscriptions that nobody used since the last round."""
        for channel, watched in list(self._watched.items()):
            if watched.connections:
                continue
            watched.idle += 1
            if watched.idle > 1:
                del self._watched[channel]
                self._subscriptions.remove(channel)
