"""How a digest reads: as a push, as an email, and in a folder's own words."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from pipelines import push
from pipelines.catalog import Catalog
from pipelines.digests import category
from pipelines.mail import Mail
from schema.delivery import Digest, Line, Parcel
from schema.errors import TemplateError

TEMPLATES = Path(__file__).parents[2] / "templates"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
LINK = "https://shop.example/unsubscribe/t"


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load(TEMPLATES)


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """A folder with one type, and nothing of its own for digests."""
    for name in ("comment", "_group"):
        shutil.copytree(TEMPLATES / name, tmp_path / "templates" / name)
    return tmp_path / "templates"


def line(title: str, message: str = "", url: str | None = None, of: str = "comment") -> Line:
    return Line(
        type=of, category="social", title=title, message=message, action_url=url, actor=None, created_at=NOW
    )


def digest(*lines: Line, total: int = 0, categories: tuple[str, ...] = ("social",)) -> Digest:
    return Digest(lines, total or len(lines), frozenset(categories))


def mail(catalog: Catalog, of: Digest) -> Mail:
    return catalog.digests.mail(of, catalog.digests.render(of, "ada"), "ada", LINK, "https://shop.example")


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (digest(line("Bob liked it", "Nice", "/p/1")), ("Bob liked it", "Nice", "/p/1")),
        (digest(line("Bob liked it")), ("Bob liked it", "", None)),
        (
            digest(line("Bob liked it"), line("Eve, too")),
            ("2 new notifications", "Bob liked it, and 1 more", "/notifications"),
        ),
        (
            digest(line("Bob liked it"), total=1234),
            ("1234 new notifications", "Bob liked it, and 1233 more", "/notifications"),
        ),
    ],
)
def test_a_push(catalog: Catalog, of: Digest, says: tuple[str, str, str | None]) -> None:
    content = catalog.digests.render(of, "ada")
    assert (content.title, content.message, content.action_url) == says


def test_an_email_lists_its_notifications_in_order_and_says_how_many_there_are(catalog: Catalog) -> None:
    of = digest(
        line("Bob commented", "Great\npost!", "/posts/1"), line("Eve <i>&</i> co", "x" * 300), total=25,
        categories=("social", "news"),
    )  # fmt: skip
    made = mail(catalog, of)
    assert made.subject == "25 new notifications"
    assert '<a href="https://shop.example/posts/1">Bob commented</a>' in made.html
    assert "Great<br>" in made.html
    assert "Eve &lt;i&gt;&amp;&lt;/i&gt; co" in made.html
    assert "x" * 201 not in made.html
    assert made.text.index("Bob commented") < made.text.index("Eve <i>&</i> co") < made.text.index("And 23 more.")
    assert "[Open all](https://shop.example/notifications)" in made.text
    assert f"[Unsubscribe from emails about everything]({LINK})" in made.text


def test_one_category_can_be_unsubscribed_from_by_itself(catalog: Catalog) -> None:
    one, two = digest(line("A"), line("B")), digest(line("A"), line("B"), categories=("social", "news"))
    assert (category(one), category(two)) == ("social", "")
    assert "Unsubscribe from emails about social" in mail(catalog, one).text


def test_an_email_of_one_says_what_that_one_says(catalog: Catalog) -> None:
    made = mail(catalog, digest(line("Bob commented", "Great post!", "/posts/1")))
    assert made.subject == "Bob commented"
    assert made.text.count("Bob commented") == 1
    assert "[Open](https://shop.example/posts/1)" in made.text


def test_a_folder_brings_its_own_words(templates: Path) -> None:
    (templates / "_digest").mkdir()
    (templates / "_digest/title.txt.j2").write_text("{{ total }} für {{ recipient }}: {{ items[0].label }}")
    (templates / "_digest/email.html.j2").write_text(
        "<p>{% for item in items %}{{ item.title }};{% endfor %} {{ more }} <a href='{{ unsubscribe_url }}'>x</a>"
    )
    catalog = Catalog.load(templates)
    of = digest(line("A"), line("B", of="gone"), total=5)
    assert catalog.digests.render(of, "ada").title == "5 für ada: comments"
    made = mail(catalog, of)
    assert made.subject == "5 für ada: comments"
    assert "A;B; 3" in made.html


@pytest.mark.parametrize(
    ("file", "words", "complaint"),
    [
        ("title.txt.j2", "{{ totl }}", "templates/_digest/title.txt.j2:1: 'totl' is undefined"),
        ("message.txt.j2", "{{ items[1].title }}", "templates/_digest/message.txt.j2:1: "),
        ("email.html.j2", "<p>{{ total }}</p>", "templates/_digest/email.html.j2:1: does not show"),
        ("email.subject.txt.j2", " ", "templates/_digest/email.subject.txt.j2:1: gives an empty subject"),
    ],
)
def test_words_that_cannot_work_are_found_at_the_start(
    templates: Path, file: str, words: str, complaint: str
) -> None:
    (templates / "_digest").mkdir()
    (templates / "_digest" / file).write_text(words)
    with pytest.raises(TemplateError) as caught:
        Catalog.load(templates)
    assert complaint in str(caught.value)


def test_a_digest_fits_into_a_push_however_long_its_words(catalog: Catalog) -> None:
    of = digest(line("A" * 255, "é" * 10_000), total=2)
    says = catalog.digests.render(of, "ada")
    parcel = Parcel(
        delivery=UUID(int=1), attempt=1, notification=UUID(int=2), user="ada", address="token", type="comment",
        category="social", importance="normal", title=says.title, message=says.message, action_url=says.action_url,
        data={}, created_at=NOW, digest=of,
    )  # fmt: skip
    assert len(push.encoded(push.web_push(parcel))) <= push.WEB_PUSH_BYTES
    assert push.web_push(parcel)["url"] == "/notifications"
    assert len(push.encoded(push.fcm_message(parcel, NOW))) <= push.FCM_BYTES
