"""The web channel: tells the gateways, over Redis pub/sub, what is new in a user's inbox.

A publication wakes whoever is connected; whoever is not reads the inbox later. It may be repeated at will: the
gateway shows each seq once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from schema.delivery import Later, Outcome, Sent
from schema.wire import Publication, user_channel

NAME = "web"
SCHEDULE = (1, 2, 5, 10, 30, 60, 60, 60, 60, 60)


class Item(NamedTuple):
    """One delivery: whose inbox, and what to say of it."""

    user: str
    publication: Publication


def send(items: Sequence[Item], redis: Redis) -> list[Outcome]:
    """One trip for all. Deliveries that became one group say the same; it is said once."""
    told: dict[tuple[str, int], Item] = {}
    for item in items:
        shown = item.publication.item
        told[item.user, shown.seq if shown else 0] = item
    pipe = redis.pipeline(transaction=False)
    for item in told.values():
        pipe.publish(user_channel(item.user), msgspec.json.encode(item.publication))
    try:
        pipe.execute()
    except RedisError as error:
        return [Later(type(error).__name__) for _ in items]
    return [Sent() for _ in items]
