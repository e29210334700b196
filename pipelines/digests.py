"""Digests: how several notifications read as one email or one push; pure, from the templates in `_digest/`:

    title.txt.j2, message.txt.j2, action_url.txt.j2   the push
    email.subject.txt.j2, email.html.j2               the email; email.txt.j2 is optional, as everywhere

They know `items`, the first of the notifications in the order in which they came (each with title, message,
action_url, type, label, category and actor), `total`, `more` (how many are not among the items) and `recipient`;
those of the email also what a type's do, where `data` is empty. Files that a folder of templates does not bring
are Tocsin's own.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pipelines.mail import Letter, Mail, lend
from pipelines.rendering import PARTS, Content, Sandbox, Wording
from schema.delivery import Digest, Line

DIGEST = "_digest"
EVERYTHING = ""
"""The category that stands for all of a channel, where a digest has several."""


class Digests:
    """The wording of digests. Raises TemplateError for templates that cannot say one of 1, 2 or 22."""

    def __init__(self, sandbox: Sandbox, labels: Mapping[str, str], hosts: frozenset[str]) -> None:
        lend(sandbox, DIGEST)
        self._labels = labels
        self._wording = Wording(sandbox, [f"{DIGEST}/{part}.txt.j2" for part in PARTS], hosts)
        self._letter = Letter(sandbox, DIGEST, "digests", "everything", hosts)
        for total in (1, 2, 22):
            digest = _sample(total)
            content = self.render(digest, "ada")
            self.mail(digest, content, "ada", "https://a.test/u", "https://a.test")

    def render(self, digest: Digest, recipient: str) -> Content:
        """What a push says. Raises TemplateError."""
        return self._wording.render(self._known(digest) | {"recipient": recipient})

    def mail(
        self, digest: Digest, content: Content, recipient: str, unsubscribe_url: str, public_url: str
    ) -> Mail:
        """As Letter.render."""
        known = self._known(digest)
        if only := category(digest):
            known["category"] = only
        return self._letter.render(content, {}, recipient, None, unsubscribe_url, public_url, known)

    def _known(self, digest: Digest) -> dict[str, Any]:
        items = [
            {
                "title": line.title,
                "message": line.message,
                "action_url": line.action_url,
                "type": line.type,
                "label": self._labels.get(line.type, line.type),
                "category": line.category,
                "actor": line.actor,
            }
            for line in digest.lines
        ]
        return {"items": items, "total": digest.total, "more": digest.total - len(items)}


def category(digest: Digest) -> str:
    """What one unsubscribes from: the category of all of it, or EVERYTHING."""
    return next(iter(digest.categories)) if len(digest.categories) == 1 else EVERYTHING


def _sample(total: int) -> Digest:
    one = Line(
        type="comment",
        category="social",
        title="New comment from Bob",
        message="Great post!",
        action_url="/posts/1",
        actor="bob",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return Digest((one,) * min(total, 20), total, frozenset({"social"}))
