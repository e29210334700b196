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
    assert catalog.windows == dict.fromkeys(names, 3_600_000)


def test_a_type_file_may_be_short(folder: Path) -> None:
    (folder / "type.toml").write_text('category = "social"\nlabel = "comments"\n[channels]\nemail = true\n')
    catalog = Catalog.load(folder.parent)
    kind = catalog.types["comment"]
    assert (kind.name, kind.importance, kind.rate_limit, kind.grouping) == ("comment", "normal", None, None)
    assert kind.channels == {"web": True, "email": True, "push": False}
    assert set(kind.channels) == set(CHANNELS)
    assert catalog.windows == {}


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
        ('label = "comments"', "", "Object missing required field `label`"),
        ('label = "comments"', 'label = ""', "Expected `str` of length >= 1 - at `$.label`"),
        ('label = "comments"', 'label = "x"\nchanels = 1', "Object contains unknown field `chanels`"),
        (
            'label = "comments"',
            'label = "x"\nname = "y"',
            "Object contains unknown field `name`: it is the folder's",
        ),
        ('"social"', '"So cial"', "Expected `str` matching regex '^[a-z][a-z0-9_]{0,49}$' - at `$.category`"),
        ('"normal"', '"urgent"', "Invalid enum value 'urgent' - at `$.importance`"),
        ("push = false", "sms = true", "channels.sms: no such channel; there are web, email, push"),
        ("push = false", "push = 1", "Expected `bool`, got `int` - at `$.channels[...]`"),
        ("max = 10", "max = 0", "Expected `int` >= 1 - at `$.rate_limit.max`"),
        ("max = 10", "max = 10\nburst = 2", "Object contains unknown field `burst` - at `$.rate_limit`"),
        ("max = 10", "max =", "Invalid value (at line 11, column 6)"),
        ("threshold = 3", "threshold = 1", "Expected `int` >= 2 - at `$.grouping.threshold`"),
        *(
            (
                'window = "1h"',
                f"window = {value}",
                'Expected a duration such as "90s", "15m", "1h" or "7d" - at `$.grouping.window`',
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
        catalog.render_group("gone", 3)


def test_a_catalog_is_read_once(folder: Path) -> None:
    catalog = Catalog.load(folder.parent)
    before = (
        catalog.render("comment", GOOD, "ada", None),
        catalog.check("comment", {}),
        catalog.render_group("comment", 3),
    )
    shutil.rmtree(folder.parent)
    after = (
        catalog.render("comment", GOOD, "ada", None),
        catalog.check("comment", {}),
        catalog.render_group("comment", 3),
    )
    assert before == after


def test_several_threads_check_at_once(catalog: Catalog) -> None:
    data = [GOOD, {}, catalog.samples["mention"]]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: len(catalog.check("comment", data[n % 3])), range(3000)))
    assert found == [0, 4, 3] * 1000
