"""Every type's folder, rendered from its sample, against tests/contracts/golden/templates.json.

When a wording changed on purpose, write them anew and read the diff:
`WRITE_GOLDEN=1 pytest -n0 tests/contracts/test_templates.py`
"""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.catalog import Catalog
from pipelines.group_wording import Gathered

TEMPLATES = Path(__file__).parents[2] / "templates"
GOLDEN = Path(__file__).parent / "golden" / "templates.json"
CATALOG = Catalog.load(TEMPLATES)


def group(name: str, **of: Any) -> Any:
    """What a group of 5 says."""
    return msgspec.to_builtins(CATALOG.render_group(name, Gathered(count=5, data=CATALOG.samples[name], **of)))


def said(name: str) -> dict[str, Any]:
    return {
        "sample": msgspec.to_builtins(CATALOG.render(name, CATALOG.samples[name], "ada", "bob")),
        "group of 5": group(name, people=5, actors=("Ada", "Kim", "Lin")),
        "group of 5, of one key": group(name, people=5, actors=("Ada", "Kim", "Lin"), key="k"),
        "group of 5, by one person": group(name, people=1, actors=("Ada",)),
        "group of 5, by nobody known": group(name, people=5),
    }


def test_every_type_has_its_golden_text_and_no_text_has_lost_its_type() -> None:
    if os.environ.get("WRITE_GOLDEN"):
        found = {name: said(name) for name in CATALOG.types}
        GOLDEN.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
    assert set(json.loads(GOLDEN.read_text("utf-8"))) == set(CATALOG.types)


@pytest.mark.parametrize("name", CATALOG.types)
def test_a_type_says_what_it_said(name: str) -> None:
    assert said(name) == json.loads(GOLDEN.read_text("utf-8"))[name]


@pytest.mark.parametrize("name", CATALOG.types)
def test_a_type_needs_no_more_than_its_required_data(name: str) -> None:
    """No actor, and no optional key: a template that uses one must say what stands in for it."""
    schema = json.loads((TEMPLATES / name / "data.schema.json").read_text("utf-8"))
    data = {key: CATALOG.samples[name][key] for key in schema["required"]}
    assert CATALOG.check(name, data) == []
    content = CATALOG.render(name, data, "ada", None)
    assert "None" not in content.title


@pytest.mark.parametrize("name", CATALOG.types)
def test_hostile_data_that_passes_the_door_stays_text(name: str) -> None:
    """Whatever a user's name or an id may hold: it renders, on one line, and the link stays where it was."""
    schema = json.loads((TEMPLATES / name / "data.schema.json").read_text("utf-8"))
    nasty = "../\\@evil.example?#\u202e\n{{ 7 * 7 }}<script>"
    data = dict(CATALOG.samples[name])
    for key, rule in schema["properties"].items():
        if "string" in rule.get("type", ()) and "format" not in rule:
            data[key] = nasty[: rule["maxLength"]]
    assert CATALOG.check(name, data) == []
    content = CATALOG.render(name, data, "ada", "bob")
    assert "{{ 7 * 7 }}" in content.title + content.message or "<script>" in content.title + content.message
    assert len(content.title.splitlines()) == 1
    usual = CATALOG.render(name, CATALOG.samples[name], "ada", "bob").action_url
    assert (content.action_url or "").split("/")[:2] == (usual or "").split("/")[:2]
    assert (content.action_url or "").count("/") == (usual or "").count("/")


@pytest.mark.parametrize(
    ("name", "data", "title", "message", "action_url"),
    [
        (
            "comment",
            {"userName": "Bob", "comment": "Hi", "postId": 1, "commentId": 2},
            "New comment from Bob",
            "Hi",
            "/posts/1#comment-2",
        ),
        ("mention", {"userName": "Bob", "text": "Hi @ada", "url": "/p/1"}, "Bob mentioned you", "Hi @ada", "/p/1"),
        ("like", {"userName": "Bob", "postTitle": "Tea", "postId": 1}, "Bob liked your post", "Tea", "/posts/1"),
    ],
)
def test_the_first_three_types_keep_the_wording_they_were_asked_to_have(
    name: str, data: dict[str, Any], title: str, message: str, action_url: str
) -> None:
    content = CATALOG.render(name, data, "ada", None)
    assert (content.title, content.message, content.action_url) == (title, message, action_url)


def test_a_group_keeps_the_wording_it_was_asked_to_have() -> None:
    content = CATALOG.render_group("message", Gathered(count=3, people=3))
    assert (content.title, content.message) == ("3 new messages", "Click to view all")
    assert content.action_url == "/notifications?type=message"


@pytest.mark.parametrize("name", CATALOG.types)
@pytest.mark.parametrize("actors", [(), ("Ada",), ("Ada", "Kim", "Lin")])
def test_a_group_needs_no_more_than_its_last_members_required_data(name: str, actors: tuple[str, ...]) -> None:
    schema = json.loads((TEMPLATES / name / "data.schema.json").read_text("utf-8"))
    data = {key: CATALOG.samples[name][key] for key in schema["required"]}
    for people in (1, 2, 5):
        content = CATALOG.render_group(name, Gathered(count=5, people=people, actors=actors, data=data))
        assert content.action_url, "its own wording, and not what stands in when that fails"
        assert "None" not in content.title
