"""`GET` and `PUT /api/preferences`: what a user wants of each type, of categories and of everything, over the
catalog's defaults (workers/wishes.py)."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pipelines.catalog import Catalog
from pipelines.choices import OptOut, Wanted, change
from pipelines.preferences import Kept
from workers import wishes
from workers.gateway.auth import Auth
from workers.gateway.body import read_body
from workers.gateway.inbox import Pool
from workers.gateway.refusal import answer, does_not_fit


class Body(Wanted, forbid_unknown_fields=True):
    """Of a PUT, in camelCase."""

    opt_outs: list[OptOut] = msgspec.field(name="optOuts", default_factory=list)


class Shown(wishes.View, kw_only=True):
    """The answer, in camelCase."""

    opt_outs: list[OptOut] = msgspec.field(name="optOuts")


class Preferences:
    def __init__(self, pool: Pool, auth: Auth, catalog: Catalog) -> None:
        self._pool, self._auth, self._types = pool, auth, catalog.types

    async def get(self, request: Request) -> Response:
        user = self._auth.reader(request).user
        async with self._pool.connection() as db:
            rows = await (await db.execute(wishes.READ, {"user": user})).fetchall()
        return self._answer(wishes.kept(rows))

    async def put(self, request: Request) -> Response:
        user = self._auth.changer(request).user
        wanted, errors = wishes.read(await read_body(request, object), Body, self._types)
        if errors:
            raise does_not_fit(errors)
        who = {"user": user}
        async with self._pool.connection() as db, db.transaction():
            await db.execute(wishes.PERSON, who)
            await db.execute(wishes.LOCK, who)
            before = wishes.kept(await (await db.execute(wishes.READ, who)).fetchall())
            after = change(before, wanted, self._types)
            if row := wishes.values(user, "user", before, after):
                await db.execute(wishes.WRITE, row)
        return self._answer(after)

    def _answer(self, kept: Kept) -> Response:
        return answer(Shown(**wishes.view(kept, self._types)))
