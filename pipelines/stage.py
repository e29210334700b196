"""What a stage is, and what it may use."""

from collections.abc import Callable
from dataclasses import dataclass

from psycopg_pool import ConnectionPool
from redis import Redis

from pipelines.catalog import Catalog
from schema.notification import Notification


@dataclass(frozen=True, slots=True)
class Resources:
    """What a process opened once. `served`: the channels that this fleet is configured for, by what preferences
    call them and by the names of those that send (push: fcm, webpush). `dry`: nothing is to be written or
    counted."""

    pool: ConnectionPool
    redis: Redis
    catalog: Catalog
    served: frozenset[str]
    dry: bool = False


Stage = Callable[[list[Notification], Resources], list[Notification]]
"""Takes a batch and returns it, in order and whole, with channels closed where it found a reason. It never
opens a channel, never drops a notification, makes at most one trip to Postgres or Redis, and gives the same
answer when repeated."""
