"""Group commit: calls that arrive while one transaction commits share the next."""

import asyncio
from collections import deque
from collections.abc import Sequence

import psycopg
from dramatiq.errors import ConnectionClosed

from pipelines import accept
from pipelines.accept import Accepted, Arrival, Verdict
from workers import log
from workers.api.documents import busy
from workers.chain import start
from workers.resources import pool

MOST = 1000
"""Events in one transaction, unless one call alone brings more."""
WAITING = 20_000
"""Events that may wait for their transaction, unless one call alone brings more: some seconds of work."""
RETRY_AFTER = 1

Call = tuple[Sequence[Arrival], "asyncio.Future[Verdict]"]


class Commits:
    """Gathers calls for one committer. A lonely call waits for nobody: it is committed at once."""

    def __init__(self) -> None:
        self._waiting: deque[Call] = deque()
        self._events = 0
        self._committer: asyncio.Task[None] | None = None
        self._ready: list[Accepted] = []
        self._starter: asyncio.Task[None] | None = None

    async def store(self, arrivals: Sequence[Arrival]) -> Verdict:
        """Returns once the events are committed. Raises psycopg.OperationalError or PoolTimeout when Postgres
        is away; then nothing was stored, or everything, and the same call again finds out. Raises Refused (503)
        when too many wait already."""
        if self._waiting and self._events + len(arrivals) > WAITING:
            raise busy(f"{self._events:,} events wait for their commit", RETRY_AFTER)
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append((arrivals, future))
        self._events += len(arrivals)
        if self._committer is None:
            self._committer = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._commit_some()
        finally:
            self._committer = None

    async def _commit_some(self) -> None:
        calls = self._take()
        try:
            verdicts, ready = await asyncio.to_thread(_commit, [arrivals for arrivals, _ in calls])
        except psycopg.DataError as error:
            await self._one_by_one(calls, error)
            return
        except Exception as error:  # the callers get it, each its own
            for _, future in calls:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), verdict in zip(calls, verdicts, strict=True):
            if not future.done():
                future.set_result(verdict)
        self._start(ready)

    async def _one_by_one(self, calls: list[Call], error: psycopg.DataError) -> None:
        """One call's content that Postgres refuses must not fail its neighbours."""
        for arrivals, future in calls:
            if future.done():
                continue
            if len(calls) == 1:
                future.set_exception(error)
                continue
            try:
                (verdict,), ready = await asyncio.to_thread(_commit, [arrivals])
            except Exception as own:
                if not future.done():
                    future.set_exception(own)
            else:
                if not future.done():
                    future.set_result(verdict)
                self._start(ready)

    def _take(self) -> list[Call]:
        calls: list[Call] = []
        events = 0
        while self._waiting and (not calls or events + len(self._waiting[0][0]) <= MOST):
            calls.append(self._waiting.popleft())
            events += len(calls[-1][0])
        self._events -= events
        return calls

    def _start(self, ready: list[Accepted]) -> None:
        """Into the chain, beside the answer; what is committed meanwhile goes together. If Redis is away, the
        clock starts them."""
        self._ready += ready
        if self._ready and self._starter is None:
            self._starter = asyncio.create_task(self._start_all())

    async def _start_all(self) -> None:
        try:
            while self._ready:
                ready, self._ready = self._ready, []
                await asyncio.to_thread(_start, ready)
        finally:
            self._starter = None

    async def end(self) -> None:
        """Returns when everything that was committed is in the chain."""
        while task := self._committer or self._starter:
            await task


def _commit(calls: list[Sequence[Arrival]]) -> tuple[list[Verdict], list[Accepted]]:
    with pool().connection(timeout=2) as connection:
        return accept.accept(connection, "http", calls)


def _start(ready: list[Accepted]) -> None:
    try:
        start(ready)
    except ConnectionClosed as error:
        log.logger().warning("events_wait_for_the_clock", events=len(ready), error=type(error).__name__)
