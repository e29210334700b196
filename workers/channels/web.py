"""The web channel: tells the gateways, over Redis pub/sub, what is new in a user's inbox.

A publication wakes whoever is connected; whoever is not reads the inbox later. It may be repeated at will: the
gateway shows each seq once.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import msgspec
from redis import Redis
from redis.commands.core import Script
from redis.exceptions import RedisError

from schema.delivery import Later, Sent
from schema.wire import Publication, user_channel

NAME = "web"
SERVES = "web"
BATCH = 500
AT_ONCE = 2
LEASE = 0
"""Nothing is claimed: see workers/publications.py."""
SCHEDULE = (1, 2, 5, 10, 30, 60, 60, 60, 60, 60)


class Item(NamedTuple):
    """One delivery: whose inbox, and what to say of it."""

    user: str
    publication: Publication


def ready() -> bool:
    return True


@cache
def _publish(redis: Redis) -> Script:
    return redis.register_script("for i, channel in ipairs(KEYS) do redis.call('PUBLISH', channel, ARGV[i]) end")


def send(items: Sequence[Item], redis: Redis) -> list[Sent | Later]:
    """One command for all. Deliveries that became one group say the same; it is said once."""
    told: dict[tuple[str, int], Item] = {}
    for item in items:
        shown = item.publication.item
        told[item.user, shown.seq if shown else 0] = item
    channels = [user_channel(item.user) for item in told.values()]
    publications = [msgspec.json.encode(item.publication) for item in told.values()]
    try:
        _publish(redis)(keys=channels, args=publications)
    except RedisError as error:
        return [Later(type(error).__name__) for _ in items]
    return [Sent()] * len(items)
