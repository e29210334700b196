"""What type.toml and limits.toml say of limits, and the one line an author reads when it is wrong."""

import shutil
from pathlib import Path

import pytest

from pipelines.catalog import Catalog
from pipelines.limits import Window
from schema.errors import TemplateError

TEMPLATES = Path(__file__).parents[2] / "templates"
SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
OWN = Window("comment", "", 10, HOUR)
TYPE = """
category = "social"
label = "comments"

[rate_limit]
max = 10
per = "1h"

[grouping]
threshold = 3
window = "1h"
"""


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """A copy with the one type `comment`, which has ten an hour."""
    for folder in TEMPLATES.glob("_*"):
        shutil.copytree(folder, tmp_path / "templates" / folder.name)
    shutil.copytree(TEMPLATES / "comment", tmp_path / "templates" / "comment")
    (tmp_path / "templates" / "comment" / "type.toml").write_text(TYPE)
    return tmp_path / "templates"


def change(templates: Path, old: str, new: str) -> None:
    file = templates / "comment" / "type.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_without_a_file_only_the_type_limits(templates: Path) -> None:
    assert Catalog.load(templates).gates == {"comment": {"": [OWN]}}


def test_a_type_without_a_limit_has_no_gates(templates: Path) -> None:
    change(templates, '[rate_limit]\nmax = 10\nper = "1h"\n', "")
    assert Catalog.load(templates).gates == {"comment": {}}


@pytest.mark.parametrize(
    ("written", "gates"),
    [
        ("", {"": [OWN]}),
        ("[user]\n", {"": [OWN]}),
        ('[user]\nmax = 50\nper = "1d"\n', {"": [OWN, Window("", "", 50, DAY)]}),
        (
            '[user.channels.email]\nmax = 5\nper = "1d"\n',
            {"": [OWN], "email": [Window("", "email", 5, DAY)]},
        ),
        (
            '[user]\nmax = 50\nper = "1d"\n[user.channels]\n'
            'email = {max = 5, per = "1d"}\nweb = {max = 1, per = "1s"}\n',
            {
                "": [OWN, Window("", "", 50, DAY)],
                "email": [Window("", "email", 5, DAY)],
                "web": [Window("", "web", 1, SECOND)],
            },
        ),
    ],
)
def test_limits_of_a_user_overall(templates: Path, written: str, gates: object) -> None:
    (templates / "limits.toml").write_text(written)
    assert Catalog.load(templates).gates == {"comment": gates}


def test_limits_of_a_type_s_channels(templates: Path) -> None:
    limits = (
        '[rate_limit.channels]\npush = {max = 3, per = "1h"}\n[rate_limit.channels.email]\nmax = 2\nper = "1d"\n'
    )
    change(templates, 'per = "1h"\n', f'per = "1h"\n{limits}')
    (templates / "limits.toml").write_text('[user.channels]\nemail = {max = 5, per = "1d"}\n')
    assert Catalog.load(templates).gates["comment"] == {
        "": [OWN],
        "push": [Window("comment", "push", 3, HOUR)],
        "email": [Window("comment", "email", 2, DAY), Window("", "email", 5, DAY)],
    }


def test_a_type_may_limit_its_channels_alone(templates: Path) -> None:
    change(
        templates, '[rate_limit]\nmax = 10\nper = "1h"\n', '[rate_limit.channels]\npush = {max = 3, per = "1h"}\n'
    )
    assert Catalog.load(templates).gates == {"comment": {"push": [Window("comment", "push", 3, HOUR)]}}


def test_no_two_windows_share_a_key() -> None:
    windows = [Window(of, channel, 1, 1) for of in ("", "comment") for channel in ("", "email")]
    assert len({window.key("ada") for window in windows}) == 4


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("[user]\nmax = 5\n", "user: max and per come together"),
        ('[user]\nper = "1h"\n', "user: max and per come together"),
        ('[user]\nmax = 0\nper = "1h"\n', "user.max: expected a number >= 1"),
        (
            '[user]\nmax = 5\nper = "hour"\n',
            'user.per: expected a duration such as "90s", "15m", "1h" or "7d"',
        ),
        (
            "[user.channels.email]\nmax = 5\n",
            "user.channels.email.per: is required",
        ),
        (
            '[user.channels.sms]\nmax = 5\nper = "1h"\n',
            "user.channels.sms: no such channel; there are web, email, push",
        ),
        ('[users]\nmax = 5\nper = "1h"\n', "users: is not a known field; did you mean 'user'?"),
        ('[user]\nmax = 5\nper = "1h"\nburst = 1', "user.burst: is not a known field"),
        ("user = 5", "user: expected an object, got a number"),
        ("[user", "Expected ']' at the end of a table declaration (at end of document)"),
    ],
)
def test_what_can_be_wrong_with_limits_toml(templates: Path, written: str, says: str) -> None:
    (templates / "limits.toml").write_text(written)
    with pytest.raises(TemplateError) as caught:
        Catalog.load(templates)
    assert str(caught.value) == f"templates/limits.toml: {says}"


def test_limits_toml_that_is_no_text(templates: Path) -> None:
    (templates / "limits.toml").write_bytes(b"\xff")
    with pytest.raises(TemplateError, match=r"limits\.toml: cannot be read as UTF-8 text"):
        Catalog.load(templates)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('per = "1h"\n\n', "\n", "rate_limit: max and per come together"),
        (
            'per = "1h"\n',
            'per = "1h"\noverflow = "drop"\n',
            "rate_limit.overflow: must be one of suppress, fold",
        ),
        (
            'per = "1h"\n',
            'per = "1h"\nchannels.sms = {max = 1, per = "1h"}\n',
            "rate_limit.channels.sms: no such channel; there are web, email, push",
        ),
        (
            '[grouping]\nthreshold = 3\nwindow = "1h"\n',
            "[rate_limit.channels]\nemail = {max = 1}\n",
            "rate_limit.channels.email.per: is required",
        ),
        (
            'per = "1h"\n\n[grouping]\nthreshold = 3\nwindow = "1h"\n',
            'per = "1h"\noverflow = "fold"\n',
            'rate_limit.overflow: "fold" needs a [grouping] to fold into',
        ),
    ],
)
def test_what_can_be_wrong_with_a_type_s_limit(templates: Path, old: str, new: str, says: str) -> None:
    change(templates, old, new)
    with pytest.raises(TemplateError) as caught:
        Catalog.load(templates)
    assert str(caught.value) == f"templates/comment/type.toml: {says}"
