"""Where inboxes stand, for many who ask at the same moment: when a gateway starts again, all its browsers come
back. One query answers all who wait; those who come while it runs are the next one's."""

import asyncio

from workers.gateway import inbox
from workers.gateway.inbox import Pool, State
from workers.gateway.tasks import Tasks


class States:
    def __init__(self, pool: Pool, tasks: Tasks) -> None:
        self._pool, self._tasks = pool, tasks
        self._asked: dict[str, asyncio.Future[State]] = {}
        self._reading = False

    async def of(self, user: str) -> State:
        """Where the user's inbox stands now or in a moment. Raises psycopg.OperationalError: Postgres is away."""
        answer = self._asked.get(user)
        if answer is None:
            answer = self._asked[user] = asyncio.get_running_loop().create_future()
        if not self._reading:
            self._reading = True
            self._tasks.spawn(self._read())
        return await asyncio.shield(answer)  # who leaves takes it from nobody else

    async def _read(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                await self._answer(asked)
        finally:
            self._reading = False

    async def _answer(self, asked: dict[str, asyncio.Future[State]]) -> None:
        try:
            async with self._pool.connection() as db:
                found = await inbox.states(db, list(asked))
            for user, answer in asked.items():
                answer.set_result(found[user])
        except Exception as error:  # whoever asked gets it
            for answer in asked.values():
                if not answer.done():
                    answer.set_exception(error)
        finally:
            for answer in asked.values():
                answer.cancel()  # the process ends; of one that is answered this takes nothing
