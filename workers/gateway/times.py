"""`GET` and `PUT /api/settings`: a user's zone, quiet hours and when digests come (workers/times.py)."""

from starlette.requests import Request
from starlette.responses import Response

from workers import quiet, times
from workers.gateway.auth import Auth
from workers.gateway.body import read_body
from workers.gateway.inbox import Pool
from workers.gateway.refusal import answer, does_not_fit
from workers.times import NOBODY, CamelTimes, Kept


class Times:
    def __init__(self, pool: Pool, auth: Auth) -> None:
        self._pool, self._auth = pool, auth

    async def get(self, request: Request) -> Response:
        user = self._auth.reader(request).user
        async with self._pool.connection() as db:
            row = await (await db.execute(times.READ, {"user": user})).fetchone()
        return answer(times.shown(Kept(*row) if row else NOBODY, CamelTimes))

    async def put(self, request: Request) -> Response:
        user = self._auth.changer(request).user
        wanted, errors = times.read(await read_body(request, object), CamelTimes)
        if errors:
            raise does_not_fit(errors)
        held = quiet.values({user: "now"}, sooner=True)
        async with self._pool.connection() as db, db.transaction():
            row = await (await db.execute(times.WRITE, times.values(user, wanted))).fetchone()
            kept = Kept(*row) if row else NOBODY
            if errors := times.without_zone(kept, CamelTimes):
                raise does_not_fit(errors)
            if kept.moved:
                await db.execute(quiet.LOCK, held)
                await db.execute(quiet.SPACE, held)
        return answer(times.shown(kept, CamelTimes))
