"""The catalog: what a type's folder says, and the one line an author reads when it is wrong."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.catalog import Catalog
from pipelines.group_wording import Gathered
from schema.errors import FieldError, TemplateError
from schema.notification import CHANNELS

TEMPLATES = Path(__file__).parents[2] / "templates"
GOOD = {"userName": "Bob", "comment": "Hi", "postId": 1, "commentId": "c"}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load(TEMPLATES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the one type, `comment`, of a copy of the templates."""
    for name in ("comment", "_group"):
        shutil.copytree(TEMPLATES / name, tmp_path / "templates" / name)
    return tmp_path / "templates" / "comment"


@pytest.fixture
def checked(folder: Path) -> Callable[..., list[FieldError]]:
    """The errors of data under a schema of its own."""

    def check(
        schema: dict[str, Any], data: dict[str, Any], hosts: frozenset[str] = frozenset()
    ) -> list[FieldError]:
        (folder / "data.schema.json").write_text(json.dumps(schema))
        return Catalog.load(folder.parent, hosts).check("comment", data)

    return check


def complaint(folder: Path) -> str:
    with pytest.raises(TemplateError) as caught:
        Catalog.load(folder.parent)
    return str(caught.value)


def test_the_eight_types_of_the_start(catalog: Catalog) -> None:
    names = {"comment", "mention", "like", "follow", "message", "system", "order", "payment"}
    assert set(catalog.types) == set(catalog.samples) == names
    for kind in catalog.types.values():
        assert kind.channels == {"web": True, "email": False, "push": False}
        assert kind.rate_limit is not None
        assert (kind.rate_limit.max, kind.rate_limit.per) == (10, timedelta(hours=1))
        assert kind.grouping is not None
        assert (kind.grouping.threshold, kind.grouping.window) == (3, timedelta(hours=1))
    assert {rule[:2] for rule in catalog.windows.values()} == {(3, 3_600_000)}
    assert set(catalog.windows) == names


def test_a_type_file_may_be_short(folder: Path) -> None:
    (folder / "type.toml").write_text('category = "social"\nlabel = "comments"\n[channels]\nemail = true\n')
    catalog = Catalog.load(folder.parent)
    kind = catalog.types["comment"]
    assert (kind.name, kind.importance, kind.rate_limit, kind.grouping) == ("comment", "normal", None, None)
    assert kind.channels == {"web": True, "email": True, "push": False}
    assert set(kind.channels) == set(CHANNELS)
    assert catalog.windows == {}


def test_the_type_file_of_the_documentation_is_one(folder: Path) -> None:
    written = (TEMPLATES.parent / "docs" / "templates.md").read_text("utf-8").split("```toml\n")
    type_toml, limits_toml = (text.split("```")[0] for text in written[1:])
    (folder / "type.toml").write_text(type_toml)
    (folder.parent / "limits.toml").write_text(limits_toml)
    catalog = Catalog.load(folder.parent)
    assert str(catalog.types["comment"].timings["email"]) == "if unread after 15m"
    assert set(catalog.gates["comment"]) == {"", "email", "push"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("1h", timedelta(hours=1)),
        ("7d", timedelta(days=7)),
        ("99999d", timedelta(days=99999)),
    ],
)
def test_durations(folder: Path, written: str, meant: timedelta) -> None:
    file = folder / "type.toml"
    file.write_text(file.read_text().replace('per = "1h"', f'per = "{written}"'))
    limit = Catalog.load(folder.parent).types["comment"].rate_limit
    assert limit is not None
    assert limit.per == meant


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('label = "comments"', "", "label: is required"),
        ('label = "comments"', 'label = ""', "label: expected text of length >= 1"),
        (
            'label = "comments"',
            'label = "x"\nchanels = 1',
            "chanels: is not a known field; did you mean 'channels'?",
        ),
        (
            'label = "comments"',
            'label = "x"\nname = "y"',
            "name: is not a known field",
        ),
        ('"social"', '"So cial"', "category: must be a letter, and up to 49 of a-z, 0-9 and _"),
        ('"normal"', '"urgent"', "importance: must be one of low, normal, high, critical"),
        ('label = "comments"', 'label = "x"\ntimings = {}', "timings: is not a known field"),
        ("[channels]", "[rate_limit.channels]\n[[channels]]", "channels: expected an object, got an array"),
        ("push = false", "sms = true", "channels.sms: no such channel; there are web, email, push"),
        ("push = false", "push = 1", "channels.push: expected true or false or text, got a number"),
        ("max = 10", "max = 0", "rate_limit.max: expected a number >= 1"),
        ("max = 10", "max = 10\nburst = 2", "rate_limit.burst: is not a known field"),
        ("max = 10", "max =", "Invalid value (at line 11, column 6)"),
        ("threshold = 3", "threshold = 1", "grouping.threshold: expected a number >= 2"),
        *(
            (
                'window = "1h"',
                f"window = {value}",
                'grouping.window: expected a duration such as "90s", "15m", "1h" or "7d"',
            )
            for value in ('"1 h"', '"0s"', '"h"', '"PT1H"', '"100000s"', '"1h30m"', "3600", "true")
        ),
    ],
)
def test_a_mistake_in_type_toml_names_file_and_key(folder: Path, old: str, new: str, says: str) -> None:
    file = folder / "type.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert complaint(folder) == f"templates/comment/type.toml: {says}"


def test_every_mistake_in_type_toml_is_named(folder: Path) -> None:
    (folder / "type.toml").write_text("""
categroy = "social"
label = "comments"
[channels]
email = "digest monthly"
sms = true
[rate_limit]
max = 10
per = "1 h"
overflow = "drop"
channels.push = 3
[grouping]
threshold = 1
window = "1h"
longest = "1w"
""")
    named = [line.removeprefix("templates/comment/type.toml: ") for line in complaint(folder).splitlines()]
    assert [line.split(": ")[0] for line in named] == [
        "channels.sms",
        "channels.email",
        "categroy",
        "category",
        "rate_limit.per",
        "rate_limit.overflow",
        "rate_limit.channels.push",
        "grouping.threshold",
        "grouping.longest",
    ]
    assert named[5] == "rate_limit.overflow: must be one of suppress, fold"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("postId", 'did you mean "{{ data.postId }}"?'),
        ("data.postId", 'did you mean "{{ data.postId }}"?'),
        ("post.id", 'did you mean "{{ data.post.id }}"?'),
        ("", 'a template of the data is needed, such as "{{ data.postId }}"'),
        ("all posts", 'a template of the data is needed, such as "{{ data.postId }}"'),
        ("{{ 7 }}", 'a template of the data is needed, such as "{{ data.postId }}"'),
    ],
)
def test_a_key_that_is_the_same_for_every_event_is_refused(folder: Path, key: str, says: str) -> None:
    file = folder / "type.toml"
    file.write_text(file.read_text().replace("threshold = 3", f"threshold = 3\nkey = '{key}'"))
    assert complaint(folder) == (f"templates/comment/type.toml: grouping.key: is the same for every event; {says}")


@pytest.mark.parametrize("key", ["post {{ data.postId }}", "{% if data.comment %}long{% endif %}"])
def test_a_key_is_a_template_of_the_data(folder: Path, key: str) -> None:
    file = folder / "type.toml"
    file.write_text(file.read_text().replace("threshold = 3", f"threshold = 3\nkey = '{key}'"))
    assert Catalog.load(folder.parent).groups["comment"].has_key


@pytest.mark.parametrize(
    "name",
    ["type.toml", "data.schema.json", "sample.json", "title.txt.j2", "message.txt.j2", "action_url.txt.j2"],
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert complaint(folder) == f"templates/comment/{name}: is missing"


def test_the_wording_of_groups_is_needed(folder: Path) -> None:
    (folder.parent / "_group" / "title.txt.j2").unlink()
    assert complaint(folder) == "templates/_group/title.txt.j2: is missing"


@pytest.mark.parametrize("name", ["Comment", "1st", "a-b", "ä", "a" * 51])
def test_a_folder_that_is_no_name_is_refused(folder: Path, name: str) -> None:
    (folder.parent / name).mkdir()
    assert complaint(folder).startswith(f"templates/{name}: a type's name starts with a letter")


def test_what_is_not_a_type_is_left_alone(folder: Path) -> None:
    for name in ("_parts", ".git"):
        (folder.parent / name).mkdir()
    (folder.parent / "README.md").write_text("x")
    assert list(Catalog.load(folder.parent).types) == ["comment"]


@pytest.mark.parametrize(
    ("stray", "hint"),
    [
        ("limit.toml", "did you mean 'limits.toml'?"),
        ("comment/group.titel.txt.j2", "did you mean 'group.title.txt.j2'?"),
        ("comment/email.htm.j2", "did you mean 'email.html.j2'?"),
        ("comment/x.j2", "what templates share belongs into a folder such as '_parts'"),
        ("_digest/titel.txt.j2", "did you mean 'title.txt.j2'?"),
        ("_group/titel.txt.j2", "did you mean 'title.txt.j2'?"),
        ("_layout/mail.html.j2", "did you mean 'email.html.j2'?"),
        ("_digests/title.txt.j2", "did you mean '_digest'?"),
        ("title.txt.j2", "a template belongs into the folder of a type"),
    ],
)
def test_a_file_that_nothing_reads_is_refused(folder: Path, stray: str, hint: str) -> None:
    file = folder.parent / stray
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    assert complaint(folder) == f"templates/{stray}: is read by nothing; {hint}"


def test_every_file_that_nothing_reads_is_named(folder: Path) -> None:
    (folder / "title.txt.j2").rename(folder / "titel.txt.j2")
    (folder.parent / "limit.toml").write_text("")
    assert complaint(folder).splitlines() == [
        "templates/limit.toml: is read by nothing; did you mean 'limits.toml'?",
        "templates/comment/titel.txt.j2: is read by nothing; did you mean 'title.txt.j2'?",
    ]


def test_what_another_template_uses_may_have_any_name(folder: Path) -> None:
    (folder.parent / "_digests").mkdir()
    (folder.parent / "_parts").mkdir()
    for name in ("comment/greeting.j2", "_digests/a.j2", "_parts/unused.j2"):
        (folder.parent / name).write_text("Hi")
    (folder / "message.txt.j2").write_text('{% include "comment/greeting.j2" %}{% include "_digests/a.j2" %}')
    assert Catalog.load(folder.parent).render("comment", GOOD, "ada", None).message == "HiHi"


def test_a_folder_without_types_and_no_folder_at_all(folder: Path) -> None:
    shutil.rmtree(folder)
    assert complaint(folder) == "templates: holds no types; each is a folder with a type.toml"
    shutil.rmtree(folder.parent)
    assert complaint(folder) == "templates: no such folder; TOCSIN_TEMPLATES names the one with the types"


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ('{\n"type": }', ":2: Expecting value"),
        ("[]", ":1: must be a JSON object"),
        ('{"properties": {"a": {"type": "text"}}}', ": properties.a.type: value is not valid under any"),
        (
            '{"properties": {"a": {"format": "action_url"}}}',
            ": properties.a.format: Unknown format: 'action_url'.",
        ),
        ('{"properties": {"a": {"pattern": "("}}}', ': properties.a.pattern: value is not a "regex"'),
    ],
)
def test_a_broken_schema_is_named(folder: Path, schema: str, says: str) -> None:
    (folder / "data.schema.json").write_text(schema)
    assert complaint(folder).startswith(f"templates/comment/data.schema.json{says}")


def test_a_schema_is_never_fetched(folder: Path) -> None:
    (folder / "data.schema.json").write_text('{"$ref": "https://elsewhere.example/schema"}')
    assert "Retrieval is disabled" in complaint(folder)


def test_a_file_that_is_not_utf8_is_named(folder: Path) -> None:
    (folder / "sample.json").write_bytes(b"\xff")
    assert complaint(folder) == "templates/comment/sample.json: cannot be read as UTF-8 text (UnicodeDecodeError)"


def test_a_broken_template_is_found_at_load(folder: Path) -> None:
    (folder / "message.txt.j2").write_text("a\n{{ data.comment")
    assert complaint(folder).startswith("templates/comment/message.txt.j2:2: ")


def test_a_sample_that_its_schema_refuses_is_found_at_load(folder: Path) -> None:
    (folder / "sample.json").write_text("{}")
    assert complaint(folder) == "templates/comment/sample.json: data.userName: is required"


def test_a_template_that_cannot_render_its_sample_is_found_at_load(folder: Path) -> None:
    (folder / "title.txt.j2").write_text("New comment from\n{{ data.usrName }}")
    assert complaint(folder) == "templates/comment/title.txt.j2:2: 'dict object' has no attribute 'usrName'"


def test_no_error_names_a_place_of_this_machine(folder: Path) -> None:
    (folder / "sample.json").unlink()
    assert str(folder.parents[1]) not in complaint(folder)


def test_good_data_has_no_errors(catalog: Catalog) -> None:
    assert catalog.check("comment", GOOD) == []
    assert catalog.check("comment", GOOD | {"more": {"is": "welcome"}}) == []


def test_every_error_is_named_at_its_key(catalog: Catalog) -> None:
    assert catalog.check("comment", {"userName": "", "comment": 7, "postId": []}) == [
        FieldError("data.commentId", "is required"),
        FieldError("data.userName", "must not be empty"),
        FieldError("data.comment", 'is not of type "string"'),
        FieldError("data.postId", 'is not of types "integer", "string"'),
    ]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("javascript:alert(1)", "must be a path such as /posts/1, or start with https://"),
        ("/\\evil.example", "contains a space, a backslash or an invisible character"),
        ("https://evil.example/", "leads to a host that TOCSIN_LINK_HOSTS does not list"),
        ("", "is empty"),
        (7, 'is not of type "string"'),
    ],
)
def test_an_action_url_is_refused_at_the_door(catalog: Catalog, url: object, message: str) -> None:
    data = catalog.samples["mention"] | {"url": url}
    assert catalog.check("mention", data) == [FieldError("data.url", message)]


def test_listed_hosts_pass_at_the_door_and_when_rendered() -> None:
    catalog = Catalog.load(TEMPLATES, frozenset({"Shop.example"}))
    data = catalog.samples["mention"] | {"url": "https://shop.example/x"}
    assert catalog.check("mention", data) == []
    assert catalog.render("mention", data, "ada", None).action_url == "https://shop.example/x"


def test_paths_lead_into_lists_and_objects(checked: Callable[..., list[FieldError]]) -> None:
    item = {"type": "object", "required": ["price"], "properties": {"price": {"type": "number"}}}
    schema = {"properties": {"items": {"type": "array", "items": item | {"additionalProperties": False}}}}
    data = {"items": [{"price": 1}, {}, {"price": "1", "colour": 1}]}
    assert sorted(map(repr, checked(schema, data))) == sorted(
        map(
            repr,
            [
                FieldError("data.items[1].price", "is required"),
                FieldError("data.items[2].price", 'is not of type "number"'),
                FieldError("data.items[2].colour", "is not a known key"),
            ],
        )
    )


def test_no_error_repeats_a_value_or_grows_long(checked: Callable[..., list[FieldError]]) -> None:
    secret = "secret" * 1000
    keywords: list[dict[str, Any]] = [
        {"type": "integer"}, {"maxLength": 3}, {"pattern": "^a$"}, {"enum": ["a", "b"]}, {"const": "a"},
        {"format": "email"}, {"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"not": {"type": "string"}},
        {"format": "action-url"}, {"enum": ["a" * 1000]},
    ]  # fmt: skip
    schema = {
        "properties": {f"k{n}": keyword for n, keyword in enumerate(keywords)},
        "patternProperties": {"^secret": {"type": "null"}},
    }
    errors = checked(schema, dict.fromkeys([*schema["properties"], secret], secret))
    assert len(errors) == len(keywords) + 1
    for error in errors:
        assert len(error.message) <= 200
        assert len(error.field) <= 60
        assert "secret" not in error.message


def test_a_flood_of_errors_is_cut(checked: Callable[..., list[FieldError]]) -> None:
    schema = {"properties": {"n": {"items": {"type": "string"}}}}
    assert len(checked(schema, {"n": [0] * 10_000})) == 50


def test_an_unknown_type_gets_a_hint(catalog: Catalog) -> None:
    known = "known: comment, follow, like, mention, message, order, payment, system"
    assert catalog.check("coment", {}) == [
        FieldError("type", f"unknown type 'coment'; did you mean 'comment'? {known}")
    ]
    assert catalog.check("z" * 9999, {}) == [FieldError("type", f"unknown type {'z' * 50!r}; {known}")]


def test_a_type_that_is_gone_cannot_be_rendered(catalog: Catalog) -> None:
    says = "^templates/gone: is missing; the event was accepted when it was there$"
    with pytest.raises(TemplateError, match=says):
        catalog.render("gone", {}, "ada", None)
    with pytest.raises(TemplateError, match=says):
        catalog.render_group("gone", Gathered(count=3, people=3))


def test_a_catalog_is_read_once(folder: Path) -> None:
    catalog = Catalog.load(folder.parent)
    before = (
        catalog.render("comment", GOOD, "ada", None),
        catalog.check("comment", {}),
        catalog.render_group("comment", Gathered(count=3, people=3, data=GOOD)),
    )
    shutil.rmtree(folder.parent)
    after = (
        catalog.render("comment", GOOD, "ada", None),
        catalog.check("comment", {}),
        catalog.render_group("comment", Gathered(count=3, people=3, data=GOOD)),
    )
    assert before == after


def test_several_threads_check_at_once(catalog: Catalog) -> None:
    data = [GOOD, {}, catalog.samples["mention"]]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: len(catalog.check("comment", data[n % 3])), range(3000)))
    assert found == [0, 4, 3] * 1000
