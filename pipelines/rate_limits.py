"""Stage: no more than so many notifications of a type to one user within a sliding window (type.toml)."""

from datetime import timedelta
from functools import cache
from importlib.resources import files

from redis import Redis
from redis.commands.core import Script

from pipelines.catalog import NotificationType
from pipelines.stage import Resources
from schema.identity import text
from schema.notification import Notification


@cache
def _charge(redis: Redis) -> Script:
    return redis.register_script(files(__package__).joinpath("rate_limits.lua").read_text())


def key(type_name: str, user: str) -> str:
    return f"tocsin:limit:{type_name}:{user}"


def counts(notification: Notification, kind: NotificationType | None) -> bool:
    """Whether it is charged: what goes nowhere costs nothing, and critical ones always pass."""
    limited = kind is not None and kind.rate_limit is not None
    return limited and bool(notification.open) and notification.importance != "critical"


def rate_limits(batch: list[Notification], use: Resources) -> list[Notification]:
    """One Lua call for the batch. Over the limit, every channel closes with the reason `rate_limit`."""
    kinds = use.catalog.types
    charged = [n for n in batch if counts(n, kinds.get(n.type))]
    if not charged:
        return batch
    arguments: list[str | int] = []
    for n in charged:
        limit = kinds[n.type].rate_limit
        if limit is not None:
            arguments += (text(n.id), limit.max, limit.per // timedelta(microseconds=1))
    answers = _charge(use.redis)(keys=[key(n.type, n.recipient) for n in charged], args=arguments)
    over = {n.id for n, within in zip(charged, answers, strict=True) if not within}
    return [n.close(dict.fromkeys(n.open, "rate_limit")) if n.id in over else n for n in batch]
