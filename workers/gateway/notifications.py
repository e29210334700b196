"""`/api/notifications`: the inbox over REST."""

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from workers.gateway import inbox
from workers.gateway.auth import Auth
from workers.gateway.changes import Changes, Verb
from workers.gateway.inbox import Pool
from workers.gateway.refusal import answer, fitting, unknown

Place = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Query(msgspec.Struct):
    """`before` is what `next` said: a seq, or in a group an id."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    before: str | None = None
    unread: bool | None = None
    type: Annotated[str, Meta(max_length=255, pattern="^[^\\x00]*$")] | None = None
    group: UUID | None = None


class Before(msgspec.Struct):
    before: Place | None = None


class BeforeMember(msgspec.Struct):
    before: UUID | None = None


class Notifications:
    def __init__(self, pool: Pool, auth: Auth, changes: Changes) -> None:
        self._pool, self._auth, self._changes = pool, auth, changes

    async def list(self, request: Request) -> Response:
        user = self._auth.reader(request).user
        given = {name: value for name, value in request.query_params.items() if value}
        query = fitting(given, Query, strict=False)
        if query.group:
            return await self._members(user, query, query.group)
        before = fitting({"before": query.before}, Before, strict=False).before
        async with self._pool.connection() as db:
            items, following = await inbox.page(db, user, query.limit, before, query.unread, query.type)
        return answer({"notifications": items, "next": following})

    async def _members(self, user: str, query: Query, group: UUID) -> Response:
        before = fitting({"before": query.before}, BeforeMember, strict=False).before
        async with self._pool.connection() as db:
            found = await inbox.members(db, user, group, query.limit, before, query.unread, query.type)
        if found is None:
            raise unknown()
        return answer({"notifications": found[0], "next": found[1]})

    async def unread_count(self, request: Request) -> Response:
        user = self._auth.reader(request).user
        async with self._pool.connection() as db:
            return answer({"count": (await inbox.state(db, user)).unread})

    async def read(self, request: Request) -> Response:
        return await self._change(request, "read")

    async def clicked(self, request: Request) -> Response:
        return await self._change(request, "clicked")

    async def archive(self, request: Request) -> Response:
        return await self._change(request, "archive")

    async def _change(self, request: Request, verb: Verb) -> Response:
        user = self._auth.changer(request).user
        try:
            id_ = UUID(request.path_params["id"])
        except ValueError:
            raise unknown() from None
        return answer({"count": await self._changes.change(user, id_, verb)})

    async def read_all(self, request: Request) -> Response:
        return answer({"count": await self._changes.read_all(self._auth.changer(request).user)})
