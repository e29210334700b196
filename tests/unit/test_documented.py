"""What the documentation shows is what the doors take."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import accept
from workers.resources import catalog

ROOT = Path(__file__).parents[2]


def documented() -> Iterator[tuple[str, bytes]]:
    """Every event in a block of JSON or in the body of a curl, with its page."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"^```(?:json|sh)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for at in re.finditer(r"(?:^|-d ')(?=\{)", block, re.MULTILINE):
                try:
                    event, _ = json.JSONDecoder().raw_decode(block, at.end())
                except json.JSONDecodeError:  # one that is cut short
                    continue
                if {"type", "recipients"} <= event.keys() or "specversion" in event:
                    yield f"{page.name} {event.get('id', '')}", json.dumps(event).encode()


EVENTS = dict(documented())


@pytest.mark.parametrize("raw", EVENTS.values(), ids=EVENTS.keys())
def test_a_documented_event_is_accepted(raw: bytes) -> None:
    assert accept.read(raw, catalog())


def test_they_are_found() -> None:
    pages = {name.partition(" ")[0] for name in EVENTS}
    assert pages >= {"README.md", "events.md", "judgement.md"}
