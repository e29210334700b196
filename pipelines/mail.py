"""Mail: what a notification says as an email; pure, from the templates in a type's folder, each optional:

    email.subject.txt.j2   one line; without it, the notification's title
    email.html.j2          extends _layout/email.html.j2; without it, that layout around title and message
    email.txt.j2           the text part; without it, derived from the HTML, or _layout/email.txt.j2 where that has
                           no template either

They know `data`, `recipient` and `actor` as the others do, and `title`, `message`, `action_url`,
`unsubscribe_url`, `label` and `category`; the two parts also `subject`. The HTML escapes what it is given. Styles
are inlined, because many mail programs drop style sheets; nothing is fetched, from no network and no file.
"""

import re
from collections.abc import Mapping
from html import escape, unescape
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from css_inline import CSSInliner
from inscriptis import Inscriptis
from inscriptis.css_profiles import CSS_PROFILES
from inscriptis.model.config import ParserConfig
from lxml.html import document_fromstring

from pipelines import links
from pipelines.rendering import LONGEST_TITLE, Content, Sandbox, _one_line, _output, _shortened, _visible
from schema.errors import TemplateError

LAYOUT, TEXT_LAYOUT = "_layout/email.html.j2", "_layout/email.txt.j2"
_SHIPPED = Path(__file__).parent.parent / "templates"
# css_inline writes each attribute as name="value" and escapes the quotes within, so this finds every link that a
# browser finds, and no text that looks like one.
_HREF = re.compile(r'(<[a-z][^\s>]*(?: [^\s=]+="[^"]*")*? href=")([^"]*)')
_SHEET = re.compile("<link|@import", re.IGNORECASE)
_INLINER = CSSInliner(load_remote_stylesheets=False, keep_at_rules=True)
_AS_TEXT = ParserConfig(css=CSS_PROFILES["strict"], display_links=True)


class Mail(msgspec.Struct, frozen=True):
    """A subject of one line, a whole HTML document, and the same as text. Every link is absolute."""

    subject: str
    html: str
    text: str


def lend_layout(sandbox: Sandbox) -> None:
    """The layout that comes with Tocsin, for templates that bring none of their own. Its text says what its HTML
    says, and not what another's does."""
    if LAYOUT in sandbox.sources:
        sandbox.sources.setdefault(TEXT_LAYOUT, "")
    lend(sandbox, "_layout")


def lend(sandbox: Sandbox, folder: str) -> None:
    """The files of a folder that come with Tocsin, where there is none of that name."""
    for file in (_SHIPPED / folder).glob("*.j2"):
        sandbox.sources.setdefault(f"{folder}/{file.name}", file.read_text("utf-8"))


class Letter:
    """The mail of one folder below templates/. Several threads may render it."""

    def __init__(self, sandbox: Sandbox, folder: str, label: str, category: str, hosts: frozenset[str]) -> None:
        def template(part: str) -> jinja2.Template | None:
            name = f"{folder}/email.{part}.j2"
            return sandbox.get_template(name) if name in sandbox.sources else None

        self._subject, self._text, html = template("subject.txt"), template("txt"), template("html")
        self._html = html or sandbox.get_template(LAYOUT)
        if not (self._text or html) and sandbox.sources[TEXT_LAYOUT]:
            self._text = sandbox.get_template(TEXT_LAYOUT)
        self._known = {**sandbox.globals, "label": label, "category": category}
        self._hosts = hosts

    def render(
        self,
        content: Content,
        data: dict[str, Any],
        recipient: str,
        actor: str | None,
        unsubscribe_url: str,
        public_url: str,
        more: Mapping[str, object] | None = None,
    ) -> Mail:
        """`content`: what the inbox says; `more`: what the templates know besides. Paths in links become
        addresses below `public_url`. Raises TemplateError, also for a link that may not be opened
        (pipelines/links.py) and for a mail that one cannot unsubscribe from."""
        own = public_url.rstrip("/")
        known = {
            **self._known,
            "data": data,
            "recipient": recipient,
            "actor": actor,
            "title": content.title,
            "message": content.message,
            "action_url": content.action_url and self._absolute(content.action_url, own),
            "unsubscribe_url": unsubscribe_url,
            **(more or {}),
        }
        subject = self._one_subject(content.title, known)
        known["subject"] = subject
        html = _visible(_output(self._html, known))
        if _SHEET.search(html):
            raise TemplateError(
                f"{self._html.filename}:1: no style sheet is read here: put the styles into <style>"
            )
        html = _INLINER.inline(html)
        html = _HREF.sub(lambda found: found[1] + escape(self._absolute(unescape(found[2]), own)), html)
        _expect(escape(unsubscribe_url), html, self._html)
        if self._text is None:
            return Mail(subject, html, text_of(html))
        text = _visible(_output(self._text, known)).strip() + "\n"
        _expect(unsubscribe_url, text, self._text)
        return Mail(subject, html, text)

    def _one_subject(self, title: str, known: dict[str, object]) -> str:
        if self._subject is None:
            return title
        subject = _shortened(_one_line(_output(self._subject, known)), LONGEST_TITLE)
        if not subject:
            raise TemplateError(f"{self._subject.filename}:1: gives an empty subject")
        return subject

    def _absolute(self, url: str, own: str) -> str:
        if url.startswith(f"{own}/"):
            return url
        if fault := links.check(url, self._hosts):
            raise TemplateError(f"{self._html.filename}:1: a link {fault}")
        return own + url if url.startswith("/") else url


def text_of(html: str) -> str:
    """What the document says, with its links' addresses: `[Open](https://…)`."""
    body = document_fromstring(html).body
    for element in body.iter():
        style = element.get("style", "")
        if style and "display" not in style and "white-space" not in style:
            del element.attrib["style"]  # reading what no text shows would take half of the time
    text: str = Inscriptis(body, _AS_TEXT).get_text()
    return text.strip() + "\n"


def _expect(unsubscribe_url: str, rendered: str, template: jinja2.Template) -> None:
    if unsubscribe_url not in rendered:
        raise TemplateError(f"{template.filename}:1: does not show {{{{ unsubscribe_url }}}}")
