"""Stage: no more than so many notifications within a sliding window; pipelines/limits.py says which.

Over the limit of its type, or of its user, every channel of a notification closes; or, where the type says
overflow = "fold", it is folded into its group. Over the limit of a channel, that channel closes.
"""

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import msgspec
from redis import Redis, RedisError
from redis.commands.core import Script

from pipelines.arrays import json
from pipelines.limits import OVER, Gates
from pipelines.stage import Resources
from schema.identity import text
from schema.notification import Notification

_NONE: Gates = {}


class Unasked(Exception):
    """Redis cannot be asked for the limits. `passing` goes on without: what has no limit, and what is of high or
    critical importance. `waiting` is the rest."""

    def __init__(self, passing: list[Notification], waiting: list[Notification]) -> None:
        super().__init__("Redis cannot be asked for the limits")
        self.passing = passing
        self.waiting = waiting


class Plan(NamedTuple):
    """What notifications with the same gates are charged to: the keys of the windows, without the user; each gate
    as a list of [max, microseconds]; and whose gate it is, first "" for the notification's own."""

    number: int
    keys: list[str]
    gates: list[list[tuple[int, int]]]
    names: list[str]


def rate_limits(batch: list[Notification], use: Resources) -> list[Notification]:
    """One Lua call for the batch, and none for one without limits. What goes nowhere costs nothing; critical ones
    always pass. Raises Unasked when Redis is away and some have to wait for it, RedisError when all have to."""
    plans: dict[tuple[str, tuple[str, ...]], Plan] = {}
    asked: dict[int, Plan] = {}
    limits = use.catalog.gates
    for place, n in enumerate(batch):
        if n.open and n.importance != "critical" and (gates := limits.get(n.type, _NONE)):
            alike = n.type, limited_channels(n)
            if alike not in plans:
                plans[alike] = plan(len(plans) + 1, gates, alike[1])
            if plans[alike].keys:
                asked[place] = plans[alike]
    if not asked:
        return batch
    try:
        answers = ask(batch, asked, plans.values(), use)
    except RedisError as error:
        waiting = {place for place in asked if batch[place].importance != "high"}
        if not waiting:
            return batch
        if use.dry or len(waiting) == len(batch):
            raise
        passing = [n for place, n in enumerate(batch) if place not in waiting]
        raise Unasked(passing, [batch[place] for place in sorted(waiting)]) from error
    narrowed = list(batch)
    for (place, its), opened in zip(asked.items(), answers, strict=True):
        if opened < 2 ** len(its.gates) - 1:
            narrowed[place] = narrow(batch[place], its, opened, folds(batch[place], use))
    return narrowed


def limited_channels(n: Notification) -> tuple[str, ...]:
    """The open channels that count against their limits. What is gathered for a digest does not: it interrupts
    nobody, and the digest is a limit itself."""
    if not n.timing:
        return n.open
    return tuple(channel for channel in n.open if not n.timing.get(channel, "").startswith("digest"))


def plan(number: int, gates: Gates, channels: tuple[str, ...]) -> Plan:
    names = ["", *(channel for channel in channels if channel in gates)]
    windows = [gates.get(name, []) for name in names]
    return Plan(
        number,
        [window.key("") for gate in windows for window in gate],
        [[(window.max, window.per) for window in gate] for gate in windows],
        names,
    )


def ask(batch: list[Notification], asked: dict[int, Plan], plans: Iterable[Plan], use: Resources) -> list[int]:
    """Which gates opened, as rate_limits.lua answers it."""
    keys = list[str]()
    arguments: list[str | int] = [json([its.gates for its in plans]), "look" if use.dry else "charge"]
    for place, its in asked.items():
        n = batch[place]
        keys += [key + n.recipient for key in its.keys]
        arguments += (text(n.id), its.number)
    answers: list[int] = _script(use.redis)(keys=keys, args=arguments)
    return answers


@cache
def _script(redis: Redis) -> Script:
    return redis.register_script(files(__package__).joinpath("rate_limits.lua").read_text())


def narrow(n: Notification, its: Plan, opened: int, folds: bool) -> Notification:
    """Closes what its gates did not open. One that is folded keeps its place in the inbox, and tells nobody."""
    if opened:
        shut = [name for bit, name in enumerate(its.names) if not opened >> bit & 1]
        return n.close(dict.fromkeys(shut, OVER))
    if folds and "web" in n.open:
        n = n.close({channel: OVER for channel in n.open if channel != "web"})
        return msgspec.structs.replace(n, folded=True)
    return n.close(dict.fromkeys(n.open, OVER))


def folds(n: Notification, use: Resources) -> bool:
    limit = use.catalog.types[n.type].rate_limit
    return limit is not None and limit.overflow == "fold"
