"""For tests of what is told later: types with rules of their own, a provider that listens, time that passes."""

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from uuid import UUID

from pipelines.stage import Resources
from schema.delivery import Outcome, Parcel, Sent
from tests.integration.chain import TEMPLATES, Run

TYPES = {
    "note": ("social", "digest 1h"),
    "echo": ("news", "digest 1h"),
    "tick": ("social", "digest 1s"),
    "daily": ("social", "digest daily"),
    "weekly": ("news", "digest weekly"),
    "nudge": ("social", "if unread after 15m"),
}
"""Type -> category, and its rule for email and push."""
PLAIN = """
category = "{category}"
label = "{name}s"
[channels]
email = "{rule}"
push = "{rule}"
"""
SAID = {"userName": "Bob", "comment": "Hi", "postId": 1, "commentId": "c"}


def folders(below: Path) -> Path:
    """A folder with these types, worded as comments are, unlimited and ungrouped; and with `gathered`, which
    groups from the second on."""
    templates = below / "templates"
    shutil.copytree(TEMPLATES / "_group", templates / "_group")
    for name, (category, rule) in (TYPES | {"gathered": TYPES["nudge"]}).items():
        shutil.copytree(TEMPLATES / "comment", templates / name)
        (templates / name / "title.txt.j2").write_text("{{ data.comment }} from {{ data.userName }}")
        says = PLAIN.format(name=name, category=category, rule=rule)
        if name == "gathered":
            says += '[grouping]\nthreshold = 2\nwindow = "1h"\n'
        (templates / name / "type.toml").write_text(says)
    return templates


class Provider(ModuleType):
    """A channel that takes everything, or gives these answers first; `asked` are the parcels it was given. Several
    threads may send."""

    NAME = "email"
    SERVES = "email"
    SCHEDULE: tuple[float, ...] = (10, 100, 1000)
    BATCH = 20
    LEASE = 60

    def __init__(self, *answers: Outcome, name: str = "email", serves: str = "email") -> None:
        super().__init__("provider")
        self.answers = list(answers)
        self.asked: list[Parcel] = []
        self.NAME, self.SERVES = name, serves
        self.meanwhile: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def send(self, parcels: Sequence[Parcel], _: Resources) -> list[Outcome]:
        with self._lock:
            self.asked += parcels
            self.meanwhile()
            return [self.answers.pop(0) if self.answers else Sent() for _ in parcels]

    @property
    def told(self) -> list[list[str]]:
        """The titles within each digest it was given."""
        return [[line.title for line in one.digest.lines] if one.digest else [one.title] for one in self.asked]


def time_comes(run: Run) -> None:
    """Whatever waits is due now."""
    run("UPDATE deliveries SET next_attempt_at = now() WHERE state IN ('held', 'pending', 'retrying', 'sending')")
    run("UPDATE deliveries SET digest_due = now() WHERE digest_due > now()")


def ids(found: Sequence[dict[str, UUID]]) -> list[UUID]:
    return [row["id"] for row in found]
