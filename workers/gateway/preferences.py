"""`GET` and `PUT /api/preferences`: what a user wants of each type, over the catalog's defaults. The last word
counts: a channel that is switched on ends an unsubscription from it."""

from typing import Any

import msgspec
import psycopg
from starlette.requests import Request
from starlette.responses import Response

from pipelines.catalog import Catalog
from schema.errors import FieldError
from schema.notification import CHANNELS
from workers.gateway.auth import Auth
from workers.gateway.body import read_body
from workers.gateway.inbox import Pool
from workers.gateway.refusal import answer, does_not_fit

_READ = "SELECT type, enabled, channels FROM notification_preferences WHERE user_id = %s"
_OPT_OUTS = "SELECT category, channel FROM opt_outs WHERE user_id = %s"
_OPT_IN = """
DELETE FROM opt_outs o USING unnest(%s::text[], %s::text[]) AS g (category, channel)
WHERE o.user_id = %s AND o.category = g.category AND o.channel = g.channel
RETURNING o.category, o.channel
"""
_NEW_USER = "INSERT INTO users (id) VALUES (%s) ON CONFLICT DO NOTHING"
_NEW_INBOX = "INSERT INTO inboxes (user_id) VALUES (%s) ON CONFLICT DO NOTHING"
_WRITE = """
WITH given AS (
    SELECT * FROM unnest(%(types)s::text[], %(enabled)s::boolean[], %(channels)s::jsonb[])
        AS g (type, enabled, channels)
)
INSERT INTO notification_preferences AS kept (user_id, type, enabled, channels)
SELECT %(user)s, type, coalesce(enabled, true), channels FROM given ORDER BY type
ON CONFLICT (user_id, type) DO UPDATE SET
    enabled = coalesce((SELECT enabled FROM given WHERE given.type = excluded.type), kept.enabled),
    channels = kept.channels || excluded.channels,
    updated_at = now()
"""


class Choice(msgspec.Struct):
    """A wish for one type. What is left out stays as it was; other members, such as the label, are ignored."""

    type: str
    enabled: bool | None = None
    channels: dict[str, bool] = {}


class Choices(msgspec.Struct):
    preferences: list[Choice]


class Preferences:
    def __init__(self, pool: Pool, auth: Auth, catalog: Catalog) -> None:
        self._pool, self._auth, self._types = pool, auth, catalog.types

    async def get(self, request: Request) -> Response:
        return await self._answer(self._auth.reader(request).user)

    async def put(self, request: Request) -> Response:
        user = self._auth.changer(request).user
        choices = (await read_body(request, Choices)).preferences
        if errors := list(self._errors(choices)):
            raise does_not_fit(errors)
        async with self._pool.connection() as db, db.transaction():
            await db.execute(_NEW_USER, (user,))
            await db.execute(_NEW_INBOX, (user,))
            choices += await self._opt_in(db, user, choices)
            await db.execute(
                _WRITE,
                {
                    "user": user,
                    "types": [choice.type for choice in choices],
                    "enabled": [choice.enabled for choice in choices],
                    "channels": [msgspec.json.encode(choice.channels).decode() for choice in choices],
                },
            )
        return await self._answer(user)

    async def _opt_in(self, db: psycopg.AsyncConnection, user: str, choices: list[Choice]) -> list[Choice]:
        """Who unsubscribed from a category, and now wants one type of it, gets that one: for the others the same
        is written down type by type."""
        wanted = {
            (self._types[c.type].category, channel) for c in choices for channel, on in c.channels.items() if on
        }
        columns = [category for category, _ in wanted], [channel for _, channel in wanted]
        ended = await (await db.execute(_OPT_IN, (*columns, user))).fetchall()
        given = {choice.type: choice for choice in choices}
        others = dict[str, Choice]()
        for category, channel in ended:
            for name, kind in self._types.items():
                if kind.category == category:
                    choice = given.get(name) or others.setdefault(name, Choice(name, channels={}))
                    choice.channels.setdefault(channel, False)
        return list(others.values())

    async def _answer(self, user: str) -> Response:
        async with self._pool.connection() as db:
            rows = await (await db.execute(_READ, (user,))).fetchall()
            opted_out = set(await (await db.execute(_OPT_OUTS, (user,))).fetchall())
        chosen = {kind: (enabled, channels) for kind, enabled, channels in rows}
        shown: list[dict[str, Any]] = []
        for name, kind in self._types.items():
            enabled, channels = chosen.get(name, (True, {}))
            shown.append(
                {
                    "type": name,
                    "category": kind.category,
                    "label": kind.label,
                    "enabled": enabled,
                    "channels": {
                        channel: channels.get(channel, kind.channels[channel])
                        and (kind.category, channel) not in opted_out
                        for channel in CHANNELS
                    },
                }
            )
        return answer({"preferences": shown})

    def _errors(self, choices: list[Choice]) -> list[FieldError]:
        errors, seen = [], set[str]()
        for index, choice in enumerate(choices):
            place = f"preferences[{index}]"
            if choice.type not in self._types:
                errors.append(FieldError(f"{place}.type", f"must be one of {', '.join(self._types)}"))
            elif choice.type in seen:
                errors.append(FieldError(f"{place}.type", "is given twice"))
            seen.add(choice.type)
            for channel in choice.channels:
                if channel not in CHANNELS:
                    errors.append(
                        FieldError(f"{place}.channels.{channel[:50]}", f"must be one of {', '.join(CHANNELS)}")
                    )
        return errors
