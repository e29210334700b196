"""Quota: how much of a user's limits is used. Looking costs nothing and changes nothing."""

from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from itertools import chain

import msgspec
from redis import Redis
from redis.commands.core import Script

from pipelines.catalog import Catalog
from pipelines.limits import Window

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Quota(msgspec.Struct, kw_only=True):
    """One limit of a user. `type`: whose notifications count, null for all; `channel`: those on which count, null
    for each, whatever its channels; `per`: seconds; `resets_at`: when `remaining` next grows, null while nothing
    is used."""

    type: str | None
    channel: str | None
    max: int
    per: int
    used: int
    remaining: int
    resets_at: datetime | None


def quotas(redis: Redis, catalog: Catalog, user: str) -> list[Quota]:
    """Every limit there is, overall ones first. One call to Redis; raises RedisError."""
    gates = [windows for gates in catalog.gates.values() for windows in gates.values()]
    windows = sorted(set(chain(*gates)))
    if not windows:
        return []
    arguments = chain(*((window.max, window.per) for window in windows))
    answers = _look(redis)(keys=[window.key(user) for window in windows], args=[*arguments])
    return [quota(window, *answer) for window, answer in zip(windows, answers, strict=True)]


@cache
def _look(redis: Redis) -> Script:
    return redis.register_script(files(__package__).joinpath("quota.lua").read_text())


def quota(window: Window, used: int, frees: int) -> Quota:
    return Quota(
        type=window.type or None,
        channel=window.channel or None,
        max=window.max,
        per=window.per // 1_000_000,
        used=used,
        remaining=max(0, window.max - used),
        resets_at=_EPOCH + timedelta(microseconds=frees) if used else None,
    )
