"""Mails: from templates and data to subject, HTML and text, and to the bytes of a message."""

import json
import re
import shutil
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.catalog import Catalog
from pipelines.mail import Mail, text_of
from pipelines.mime import compose, words
from pipelines.rendering import Content
from schema.errors import TemplateError

TEMPLATES = Path(__file__).parents[2] / "templates"
CATALOG = Catalog.load(TEMPLATES)
HOME = "https://shop.example"
LINK = f"{HOME}/unsubscribe/WyJhZGEiLCJzb2NpYWwiXQ.a-signature_of-some_length?a=1&b=2"
NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{ 7 * 7 }}\u202e\x00"
each_type = pytest.mark.parametrize("name", CATALOG.types)

Rendered = Callable[..., Mail]


class Seen(HTMLParser):
    """What a browser would see: tags with attributes, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def links(self) -> list[str | None]:
        return [attributes["href"] for _, attributes in self.tags if "href" in attributes]


def mail(name: str, data: dict[str, Any], catalog: Catalog = CATALOG) -> Mail:
    content = catalog.render(name, data, "ada", "bob")
    return catalog.letter(name).render(content, data, "ada", "bob", LINK, HOME)


def body(message: Message, kind: str) -> str:
    """A part's text, as a mail program shows it."""
    assert isinstance(message, EmailMessage)
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


@pytest.fixture
def rendered(tmp_path: Path) -> Rendered:
    """rendered(html=…, subject=…, txt=…, content=…, **data): the mail of a type with these templates."""
    root = tmp_path / "templates"
    folder = root / "comment"
    shutil.copytree(TEMPLATES / "comment", folder, ignore=shutil.ignore_patterns("email.*"))
    shutil.copytree(TEMPLATES / "_group", root / "_group")

    def render(content: Content | None = None, hosts: frozenset[str] = frozenset(), **parts: Any) -> Mail:
        (folder / "data.schema.json").write_text("{}")
        data = parts.pop("data", {})
        sample = {"userName": "Bob", "comment": "Hi", "postId": 1, "commentId": 2}
        (folder / "sample.json").write_text(json.dumps(sample | parts.pop("sample", {})))
        for part, text in parts.items():
            (folder / f"email.{part.replace('_', '.')}.j2").write_text(text, "utf-8")
        letter = Catalog.load(root, hosts).letter("comment")
        told = content or Content("Title", "Message", "/posts/1")
        return letter.render(told, sample | data, "ada", None, LINK, HOME)

    return render


@each_type
def test_every_type_has_a_mail_of_its_own(name: str) -> None:
    assert (TEMPLATES / name / "email.subject.txt.j2").is_file()
    assert (TEMPLATES / name / "email.html.j2").is_file()


@each_type
def test_a_mail_says_and_links_the_same_in_both_parts(name: str) -> None:
    sample = CATALOG.samples[name]
    content = CATALOG.render(name, sample, "ada", "bob")
    told = mail(name, sample)
    assert told.subject
    assert len(told.subject.splitlines()) == 1
    assert content.action_url
    action_url = HOME + content.action_url
    assert Seen(told.html).links == [action_url, LINK]
    assert f"]({action_url})" in told.text
    assert f"]({LINK})" in told.text
    for part in (Seen(told.html).text, told.text):
        assert content.title in part
        assert f"email is on for your {CATALOG.types[name].label}" in part
        assert "Unsubscribe from emails about" in part


@each_type
def test_a_mail_needs_no_more_than_required_data(name: str) -> None:
    schema = json.loads((TEMPLATES / name / "data.schema.json").read_text("utf-8"))
    data = {key: CATALOG.samples[name][key] for key in schema["required"]}
    told = mail(name, data)
    assert "None" not in told.subject + told.text


@each_type
def test_hostile_data_stays_text(name: str) -> None:
    schema = json.loads((TEMPLATES / name / "data.schema.json").read_text("utf-8"))
    data = dict(CATALOG.samples[name])
    for key, rule in schema["properties"].items():
        if "string" in rule.get("type", ()) and "format" not in rule:
            data[key] = NASTY[: rule["maxLength"]]
    assert CATALOG.check(name, data) == []
    usual, told = mail(name, CATALOG.samples[name]), mail(name, data)
    assert {tag for tag, _ in Seen(told.html).tags} <= {tag for tag, _ in Seen(usual.html).tags} | {"br", "em"}
    assert not any(key.startswith("on") for _, attributes in Seen(told.html).tags for key in attributes)
    assert "<script>" in told.subject + told.text
    assert not set("\u202e\x00") & set(told.subject + told.html + told.text)
    assert "\n" not in told.subject


@each_type
def test_a_mail_loads_nothing_and_can_be_dark(name: str) -> None:
    html = mail(name, CATALOG.samples[name]).html
    seen = Seen(html)
    assert not {"img", "link", "script", "iframe", "object", "form"} & {tag for tag, _ in seen.tags}
    assert not [attributes for _, attributes in seen.tags if {"src", "background", "srcset"} & set(attributes)]
    assert "url(" not in html
    assert "@import" not in html
    meta = {attributes.get("name"): attributes.get("content") for tag, attributes in seen.tags if tag == "meta"}
    assert meta["color-scheme"] == meta["supported-color-schemes"] == "light dark"
    assert "@media (prefers-color-scheme: dark)" in html
    assert "@media (max-width: 480px)" in html
    assert "max-width: 600px" in dict(seen.tags)["div"]["style"] or "max-width: 600px" in html
    button = next(attributes for tag, attributes in seen.tags if attributes.get("class") == "button")
    assert "background: #1d4ed8" in (button["style"] or ""), "styles are inlined"
    assert len(html) < 10_000


def test_lines_stay_lines_and_the_preview_is_not_shown_twice() -> None:
    told = mail("comment", CATALOG.samples["comment"] | {"comment": "one\ntwo\n\nthree"})
    assert "one\ntwo\n\nthree" in told.text
    assert told.text.count("one") == 1
    assert '<div class="preheader" style="display: none' in told.html


def test_without_templates_a_mail_says_what_the_inbox_says(rendered: Rendered) -> None:
    told = rendered(Content("Title <b>", "One\nTwo & three", "/posts/1"))
    assert told.subject == "Title <b>"
    assert told.text == text_of(told.html)
    assert "Title <b>\n\nOne\nTwo & three\n\n[Open](https://shop.example/posts/1)\n" in told.text


def test_without_an_action_there_is_no_button(rendered: Rendered) -> None:
    assert Seen(rendered(Content("Title", "", None)).html).links == [LINK]


def test_an_authored_text_is_the_text(rendered: Rendered) -> None:
    told = rendered(txt="{{ title }}: <{{ data.userName }}>\n{{ action_url }}\n{{ unsubscribe_url }}\n")
    assert told.text == f"Title: <Bob>\n{HOME}/posts/1\n{LINK}\n"


def test_a_subject_is_one_short_line(rendered: Rendered) -> None:
    told = rendered(
        subject_txt="{{ data.userName }}\n{{ label }} {{ category }}", data={"userName": "a\r\nb" * 200}
    )
    assert told.subject.startswith("a ba b")
    assert 250 < len(told.subject) <= 255
    assert rendered(subject_txt="{{ title }}!").subject == "Title!"


def test_a_layout_of_ones_own_is_used(rendered: Rendered, tmp_path: Path) -> None:
    layout = tmp_path / "templates" / "_layout"
    layout.mkdir()
    (layout / "email.html.j2").write_text("<h1>{{ subject }}</h1><a href='{{ unsubscribe_url }}'>stop</a>")
    assert "<h1>Title</h1>" in rendered().html


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"html": "\n{{ data.usrName }}"}, "email.html.j2:2: 'dict object' has no attribute 'usrName'"),
        ({"html": "{% block"}, "email.html.j2:1: "),
        ({"html": "{% extends '_layout/mail.html.j2' %}"}, "email.html.j2:1: there is no template"),
        ({"html": "<p>no way out"}, "email.html.j2:1: does not show {{ unsubscribe_url }}"),
        ({"txt": "no way out"}, "email.txt.j2:1: does not show {{ unsubscribe_url }}"),
        ({"txt": "{{ x }}{{ unsubscribe_url }}"}, "email.txt.j2:1: 'x' is undefined"),
        ({"subject_txt": " {{ none }} "}, "email.subject.txt.j2:1: gives an empty subject"),
        (
            {"subject_txt": "{{ data.n * 'x' }}", "sample": {"n": 10**9}},
            "email.subject.txt.j2:1: the result of * is too",
        ),
        (
            {"html": "{% for i in range(99999) %}<p>{% endfor %}"},
            "email.html.j2:1: gives more than 100,000 characters",
        ),
    ],
)
def test_what_is_wrong_is_found_when_the_catalog_is_read(
    rendered: Rendered, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(TemplateError, match=re.escape(f"templates/comment/{message}")) as caught:
        rendered(**parts)
    assert "\n" not in str(caught.value)


FOOT = "<a href='{{ unsubscribe_url }}'>stop</a>"


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        " javascript:alert(1)",
        "java\nscript:alert(1)",
        "data:text/html,x",
        "//evil.example/",
        "/\\evil.example",
        "https://evil.example/",
        "https://shop.example@evil.example/",
        "https://shop.example.evil.example/",
        "",
    ],
)
@pytest.mark.parametrize(
    "html",
    [
        "<a href='{{ data.u }}'>x</a>",
        '<a title="a>b" class=x HREF={{ data.u }}x>x</a>',
        "<area href='{{ data.u }}'>",
    ],
)
def test_no_link_leads_where_it_may_not(rendered: Rendered, html: str, link: str) -> None:
    if "HREF" in html and not link:
        link = "x"
    with pytest.raises(TemplateError, match=r"email\.html\.j2:1: a link "):
        rendered(html=html + FOOT, data={"u": link}, sample={"u": "/x"})


def test_links_are_made_absolute_and_text_that_looks_like_one_is_left(rendered: Rendered) -> None:
    told = rendered(
        html="<a href='/a?b=1&c=2' title='&lt;a href=x'>a</a>{{ data.t }}<a href='https://docs.example/x'>d</a>"
        + FOOT,
        hosts=frozenset({"docs.example"}),
        data={"t": '<a href="javascript:x">'},
        sample={"t": "x"},
    )
    assert Seen(told.html).links == [f"{HOME}/a?b=1&c=2", "https://docs.example/x", LINK]
    assert '&lt;a href="javascript:x"&gt;' in told.html


def test_an_action_that_may_not_be_opened_is_refused_again(rendered: Rendered) -> None:
    with pytest.raises(TemplateError, match="a link leads to a host"):
        rendered(Content("Title", "Message", "https://evil.example/"))


def test_styles_come_from_the_mail_alone(rendered: Rendered, tmp_path: Path) -> None:
    sheet = tmp_path / "x.css"
    sheet.write_text("p { color: red }")
    for href in (str(sheet), sheet.as_uri(), "/x.css"):
        with pytest.raises(TemplateError, match="no style sheet"):
            rendered(html=f"<link rel=stylesheet href='{href}'><p>x</p>" + FOOT)


@given(st.text(max_size=400), st.text(max_size=2000))
def test_any_text_becomes_a_mail(title: str, message: str) -> None:
    data = {"title": f"T{title}", "text": f"M{message}"}
    told = mail("system", data)
    assert told.subject
    parsed = message_from_bytes(compose(told, [], "b"), policy=policy.default)
    assert parsed["Subject"].split() == told.subject.split()
    assert body(parsed, "plain") == told.text
    assert body(parsed, "html") == told.html


def test_a_message_has_short_seven_bit_lines_that_end_as_they_must() -> None:
    text = "é" * 3000 + "\n.\n..x\nFrom me \n" + "x" * 3000 + "=_b"
    message = compose(Mail("ü" * 255, f"<p>{text}</p>", text), [("To", "a@b.test")], "b")
    assert message.isascii()
    assert b"\n" not in message.replace(b"\r\n", b"")
    assert b"\r" not in message.replace(b"\r\n", b"")
    assert max(map(len, message.split(b"\r\n"))) <= 78
    parsed = message_from_bytes(message, policy=policy.default)
    assert parsed["Subject"] == "ü" * 255
    assert body(parsed, "plain") == text
    assert parsed.get_content_type() == "multipart/alternative"


@pytest.mark.parametrize(
    "text", ["plain", "ü", "=?utf-8?q?=0ABcc=3A_x?=", "x" * 2000, "👩‍👩‍👧 \u200fשלום", "a " * 600]
)
def test_a_headers_words_are_read_as_they_were_written(text: str) -> None:
    parsed = message_from_bytes(f"Subject: {words('Subject', text)}\r\n\r\n".encode(), policy=policy.default)
    assert parsed["Subject"].split() == text.split()
    assert parsed.keys() == ["Subject"]


@pytest.mark.parametrize("break_", ["\n", "\r", "\r\n", "\x0b", "\x00", "\x85", "\u2028"])
def test_no_header_becomes_two(break_: str) -> None:
    with pytest.raises(ValueError, match="Subject holds a line break"):
        compose(Mail(f"a{break_}Bcc: x@y.test", "", ""), [], "b")
    with pytest.raises(ValueError, match="To holds a line break"):
        compose(Mail("a", "", ""), [("To", f"a@b.test{break_}Bcc: x@y.test")], "b")
