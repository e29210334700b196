"""`/api/devices` and `/api/push`: a user's own phones and browsers, and the key that browsers subscribe with."""

from typing import Any
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pipelines.endpoints import listed
from workers import devices
from workers.devices import NewDevice
from workers.gateway.auth import Auth
from workers.gateway.body import read_body
from workers.gateway.inbox import Pool
from workers.gateway.refusal import BASIC_HEADERS, Refused, answer, does_not_fit
from workers.settings import Settings


class Devices:
    """Raises TocsinError for a TOCSIN_VAPID_PRIVATE_KEY that is none."""

    def __init__(self, pool: Pool, auth: Auth, settings: Settings) -> None:
        self._pool, self._auth, self._hosts = pool, auth, listed(settings.push_hosts)
        self._public_key: str | None = None
        if private := settings.vapid_private_key.get_secret_value():
            from workers import vapid

            self._public_key = vapid.public_key(private)

    async def push(self, request: Request) -> Response:
        """The key is null where web push is not configured. That is an answer and no error, which a browser would
        write to the console of every page that asks."""
        self._auth.reader(request)
        return answer({"publicKey": self._public_key})

    async def put(self, request: Request) -> Response:
        user = self._auth.changer(request).user
        document = await read_body(request, dict[str, Any])
        if errors := devices.faults(document, self._hosts):
            raise does_not_fit(errors)
        values = devices.values(user, msgspec.convert(document, NewDevice))
        async with self._pool.connection() as db:
            rows = await (await db.execute(devices.REGISTER, values)).fetchall()
        ((id_, kind, created_at, refreshed_at),) = rows
        return answer({"id": id_, "kind": kind, "createdAt": created_at, "refreshedAt": refreshed_at})

    async def delete(self, request: Request) -> Response:
        """204 also for what is not there, or somebody else's: no one learns which."""
        user = self._auth.changer(request).user
        try:
            id_ = UUID(request.path_params["id"])
        except ValueError:
            raise Refused(404, "no such device") from None
        async with self._pool.connection() as db:
            await db.execute(devices.REMOVE, (id_, user))
        return Response(status_code=204, headers=BASIC_HEADERS)
