"""For tests of limits: a catalog with the limits that a test names, and notifications to charge to them."""

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import cast

from psycopg_pool import ConnectionPool
from redis import Redis

from pipelines.catalog import Catalog
from pipelines.rate_limits import rate_limits
from pipelines.stage import Resources
from schema.identity import notification_id
from schema.notification import CHANNELS, Notification
from tests.integration.chain import TEMPLATES

numbers = count()

Load = Callable[..., Resources]
"""limited(comment="[rate_limit]…", like=…, user="[user]…")"""


def load(folder: Path, client: Redis, **limits: str) -> Resources:
    """The types `comment` and `like` with these limits, and a user's overall."""
    templates = folder / f"templates-{next(numbers)}"
    for folder in TEMPLATES.glob("_*"):
        shutil.copytree(folder, templates / folder.name)
    for name in ("comment", "like"):
        shutil.copytree(TEMPLATES / name, templates / name)
        said = ['category = "social"', 'label = "some"', limits.get(name, "")]
        said.append('[grouping]\nthreshold = 2\nwindow = "1h"')
        (templates / name / "type.toml").write_text("\n".join(said))
    (templates / "limits.toml").write_text(limits.get("user", ""))
    return Resources(
        ConnectionPool(open=False), client, Catalog.load(templates), frozenset({*CHANNELS, "fcm", "webpush"})
    )


def new(type: str = "comment", user: str = "ada", importance: str = "normal", **timing: str) -> Notification:
    event = f"e-{next(numbers)}"
    id_ = notification_id(1_900_000_000_000, event, user)
    return Notification(id_, event, type, user, importance, CHANNELS, {}, None, timing)


def closed(batch: list[Notification], use: Resources) -> list[dict[str, str]]:
    return [n.closed for n in rate_limits(batch, use)]


def charged(client: Redis) -> dict[str, int]:
    """By window: how many."""
    found = cast("list[bytes]", client.keys("tocsin:limit:*"))
    return {key.decode().removeprefix("tocsin:limit:"): cast(int, client.zcard(key)) for key in sorted(found)}
