"""`GET /v1/users/{id}/quota`: how much of a user's rate limits is left."""

import msgspec
from litestar import get
from litestar.exceptions import NotFoundException

from pipelines.quota import Quota, quotas
from workers.api.documents import problems
from workers.api.users import UserId
from workers.resources import catalog, redis_client


class Quotas(msgspec.Struct):
    limits: list[Quota]


@get(
    "/v1/users/{user_id:str}/quota",
    tags=["users"],
    sync_to_thread=True,
    responses=problems(401, 404, 503),
)
def get_quota(user_id: UserId) -> Quotas:
    """How many more notifications a user may get: of each type that has a limit, overall, and by channel where
    channels have limits. Looking costs nothing. Whom nobody ever notified has everything left."""
    if not user_id.isprintable():
        raise NotFoundException("no such user: an id has no control characters")
    return Quotas(quotas(redis_client(), catalog(), user_id))
