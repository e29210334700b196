"""Where the links of emails lead: `/unsubscribe/{token}` (RFC 8058).

`POST` stops a category of emails for one user, `POST …/undo` takes it back; each may be repeated. `GET` shows a
page with a button and changes nothing, because programs that look for harm follow every link of a mail.

The token is all the right there is. So nobody signs in, no cookie is set or read, and Origin is not looked at: a
mail provider sends neither. The body is not read either; RFC 8058 has it say `List-Unsubscribe=One-Click`, by
either of the two encodings of forms, and there is nothing else it could ask for.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import jinja2
import psycopg
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from pipelines.catalog import Catalog
from pipelines.choices import come_back
from workers import log, unsubscribe, wishes
from workers.gateway.inbox import Pool
from workers.gateway.refusal import BASIC_HEADERS, RETRY_AFTER

_HEADERS = {
    **BASIC_HEADERS,
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",  # the address is the right itself
    "x-robots-tag": "noindex",
}
_IS_OUT = "SELECT 1 FROM opt_outs WHERE user_id = %s AND channel = 'email' AND category IN (%s, '')"
# The lock keeps the user from being erased in between; whom nobody knows any more gets no row.
_OPT_OUT = """
WITH gone AS (
    INSERT INTO opt_outs (user_id, channel, category)
    SELECT id, 'email', %s FROM users WHERE id = %s FOR KEY SHARE
    ON CONFLICT DO NOTHING RETURNING user_id, category
)
INSERT INTO preference_changes (user_id, changed_by, scope, name, setting, after)
SELECT user_id, 'unsubscribe', 'opt_out', category, 'email', 'true' FROM gone
"""

Act = Callable[[psycopg.AsyncConnection, str, str], Awaitable[str]]
"""Does what was asked, and says which state the page shows."""


async def look(db: psycopg.AsyncConnection, user: str, category: str) -> str:
    found = await (await db.execute(_IS_OUT, (user, category))).fetchone()
    return "out" if found else "in"


async def opt_out(db: psycopg.AsyncConnection, user: str, category: str) -> str:
    await db.execute(_OPT_OUT, (category, user))
    return "out"


class Unsubscribe:
    """Raises jinja2.TemplateError when its page cannot be read."""

    def __init__(self, pool: Pool, catalog: Catalog) -> None:
        self._pool, self._types, self._labels = pool, catalog.types, defaultdict[str, list[str]](list)
        for kind in catalog.types.values():
            self._labels[kind.category].append(kind.label)
            self._labels[""].append(kind.label)  # the whole channel: what a digest of several categories leads to
        files = jinja2.FileSystemLoader(Path(__file__).parent)
        environment = jinja2.Environment(loader=files, autoescape=True, undefined=jinja2.StrictUndefined)
        self._template = environment.get_template("unsubscribe.html.j2")

    def routes(self) -> list[Route]:
        root = "/unsubscribe/{token}"
        return [
            Route(root, self.show, methods=["GET"]),
            Route(root, self.leave, methods=["POST"]),
            Route(f"{root}/undo", self.show, methods=["GET"]),
            Route(f"{root}/undo", self.come_back, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        return await self._answer(request, look)

    async def leave(self, request: Request) -> Response:
        return await self._answer(request, opt_out)

    async def come_back(self, request: Request) -> Response:
        return await self._answer(request, self._opt_in)

    async def _opt_in(self, db: psycopg.AsyncConnection, user: str, category: str) -> str:
        who = {"user": user}
        async with db.transaction():
            await db.execute(wishes.LOCK, who)
            before = wishes.kept(await (await db.execute(wishes.READ, who)).fetchall())
            after = come_back(before, "email", category, self._types)
            if row := wishes.values(user, "unsubscribe", before, after):
                await db.execute(wishes.WRITE, row)
        return "back"

    async def _answer(self, request: Request, act: Act) -> Response:
        """The same 404 for every token that we did not sign."""
        token = request.path_params["token"]
        if (read := unsubscribe.read(token)) is None:
            return self._page("unknown", 404)
        user, category = read
        try:
            async with self._pool.connection() as db:
                state = await act(db, user, category)
        except psycopg.OperationalError as error:
            log.logger().warning("unsubscribe_away", error=type(error).__name__)
            return self._page("away", 503, RETRY_AFTER)
        return self._page(state, token=token, about=self._about(category))

    def _about(self, category: str) -> str:
        """ "comments, likes and mentions"; the category's name when the catalog has none of it any more."""
        *first, last = self._labels.get(category, [category])
        return f"{', '.join(first)} and {last}" if first else last

    def _page(
        self, state: str, status: int = 200, headers: Mapping[str, str] | None = None, **facts: str
    ) -> Response:
        return HTMLResponse(self._template.render(state=state, **facts), status, {**_HEADERS, **(headers or {})})
