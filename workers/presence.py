"""Presence, as the gateways tell Redis (workers/gateway/presence.py): who looks at the inbox at this moment needs
no push "if offline"."""

from collections.abc import Iterable, Sequence
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from pipelines.catalog import Catalog
from schema.delivery import SUPPRESSED
from schema.wire import presence_key
from workers import log
from workers.claims import Claimed, Decided, wanted

ONLINE = "online"
IF_OFFLINE = "if offline"


def unless_looking(claimed: Sequence[Claimed], serves: str, catalog: Catalog, redis: Redis) -> list[Claimed]:
    """The claimed deliveries, with those decided that are for the absent only. One MGET for all, and none for a
    batch without such a rule. While Redis is away nobody is seen, and everything is sent."""
    absent_only = [
        one
        for one in claimed
        if one.parcel
        and not one.parcel.digest
        and one.row.importance != "critical"
        and wanted(one.row, serves, catalog).timing == IF_OFFLINE
    ]
    if not absent_only:
        return list(claimed)
    here = looking(redis, {one.row.user for one in absent_only})
    decided = {one.row.delivery for one in absent_only if one.row.user in here}
    return [
        Claimed(one.row, None, Decided(SUPPRESSED, ONLINE)) if one.row.delivery in decided else one
        for one in claimed
    ]


def looking(redis: Redis, users: Iterable[str]) -> set[str]:
    """Those of the users who look at the inbox now, as far as Redis knows."""
    asked = list(users)
    try:
        found = cast("list[bytes | None]", redis.mget([presence_key(user) for user in asked]))
    except RedisError as error:
        log.logger().warning("presence_unknown", error=type(error).__name__)
        return set()
    return {user for user, token in zip(asked, found, strict=True) if token is not None}
