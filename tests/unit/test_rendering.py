"""Rendering: from templates and data to plain text, and every failure to one line with file and line."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.rendering import PARTS, Content, Sandbox, Wording
from schema.errors import TemplateError

Render = Callable[..., Content]
INVISIBLE = set(
    map(chr, [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
)


@pytest.fixture
def wording(tmp_path: Path) -> Callable[..., Wording]:
    def write(title: str = "T", message: str = "M", url: str = "", **more: str) -> Wording:
        root = tmp_path / "templates"
        files = {"x/title.txt": title, "x/message.txt": message, "x/action_url.txt": url, **more}
        for name, text in files.items():
            file = root / f"{name}.j2"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode())
        names = [f"x/{part}.txt.j2" for part in PARTS]
        return Wording(Sandbox(root), names, frozenset({"shop.example"}))

    return write


@pytest.fixture
def render(wording: Callable[..., Wording]) -> Render:
    def rendered(title: str = "T", message: str = "M", url: str = "", **data: Any) -> Content:
        variables = {"data": data, "recipient": "ada", "actor": None}
        return wording(title, message, url).render(variables)

    return rendered


def failure(render: Render, message: str, **data: Any) -> str:
    with pytest.raises(TemplateError) as caught:
        render(message=message, **data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_three_files_become_content(render: Render) -> None:
    content = render(
        "Hi {{ recipient }}", "{{ data.text }}\n", "/posts/{{ data.id | urlencode }}\n", text="x", id=7
    )
    assert content == Content("Hi ada", "x", "/posts/7")


def test_what_one_file_sets_is_unknown_to_the_next(render: Render) -> None:
    assert failure(render, "{{ x }}").endswith(":1: 'x' is undefined")
    with pytest.raises(TemplateError, match=r"message\.txt\.j2:1: 'x' is undefined"):
        render("{% set x = 1 %}{{ x }}", "{{ x }}")
    assert render("{% set range = 1 %}{{ range }}", "{{ range(2) | list }}") == Content("1", "[0, 1]", None)


@pytest.mark.parametrize(
    ("personal", "template"),
    [
        (False, "{{ data.recipient }} {{ actor }} 'recipient'"),
        (False, "{% set recipient = 1 %}{{ recipient }}"),
        (False, "{% macro m(recipient) %}{{ recipient }}{% endmacro %}{{ m(1) }}"),
        (True, "{{ recipient }}"),
        (True, "{% if data %}{% set recipient = 1 %}{% endif %}{{ recipient }}"),
        (True, "{% for x in data if x == recipient %}{{ x }}{% endfor %}"),
        (True, "{% macro m() %}{{ recipient }}{% endmacro %}{{ m() }}"),
        (True, "{% block b %}{{ recipient }}{% endblock %}"),
        (True, "{{ data | map('default', recipient) | join }}"),
        (True, "{% include 'x/part.txt.j2' %}"),
        (True, "{% set name = 'x/part.txt.j2' %}{% include name %}"),
        (True, "{% import 'x/part.txt.j2' as part with context %}{{ part }}"),
        (True, "{% extends 'x/part.txt.j2' %}"),
    ],
)
def test_who_is_told_may_change_what_is_said(
    wording: Callable[..., Wording], personal: bool, template: str
) -> None:
    part = {"x/part.txt": "{{ recipient }}"}
    assert wording(template, **part).personal is personal
    assert wording(message=template, **part).personal is personal
    assert wording(url=template, **part).personal is personal


def test_text_is_plain_and_never_read_as_a_template(render: Render) -> None:
    text = "{{ 7*7 }} <b>&amp;</b> %s {0.__class__}"
    assert render("{{ data.text }}", "{{ data.text }}", text=text) == Content(text, text, None)


def test_only_html_templates_escape(wording: Callable[..., Wording]) -> None:
    said = wording(message="{% include 'x/part.html.j2' %}{{ data }}", **{"x/part.html": "{{ data }}"})
    assert said.render({"data": "<b>"}).message == "&lt;b&gt;<b>"


def test_nobody_reads_none(render: Render) -> None:
    assert render(message="[{{ actor }}{{ data.a }}]", a=None).message == "[]"


def test_a_key_is_a_key_and_never_a_method_of_dict(render: Render) -> None:
    assert render(message="{{ data.items }} {{ data.get }}", items=1, get=2).message == "1 2"
    assert failure(render, "{{ data.items }}").endswith(":1: 'dict object' has no attribute 'items'")
    assert (
        render(message="{% for key, value in data | items %}{{ key }}={{ value }};{% endfor %}", a=1).message
        == "a=1;"
    )


@pytest.mark.parametrize(
    ("value", "part"), [("a b", "a%20b"), ("../x", "..%2Fx"), ("a?b#c", "a%3Fb%23c"), ("ü", "%C3%BC"), (7, "7")]
)
def test_urlencode_keeps_a_value_in_its_part_of_the_path(render: Render, value: object, part: str) -> None:
    assert render(url="/posts/{{ data.id | urlencode }}", id=value).action_url == f"/posts/{part}"


def test_urlencode_of_a_mapping_is_a_query(render: Render) -> None:
    assert render(url="/a?{{ {'b': 'c d', 'e': data.e} | urlencode }}", e="&").action_url == "/a?b=c+d&e=%26"


@pytest.mark.parametrize(
    ("given_title", "title"),
    [
        (" a \n\t b\r\n", "a b"),
        ("a\u2028b\x85c", "a b c"),
        ("a\x00b\x1b[31m", "ab[31m"),
        ("a \x00 b", "a b"),
        ("\u202egnp.exe\u2066", "gnp.exe"),
        ("a\ud800b", "ab"),
        ("👩‍👩‍👧 \u200fשלום", "👩‍👩‍👧 \u200fשלום"),
        ("a" * 255, "a" * 255),
        ("a" * 256, "a" * 254 + "…"),
        ("a" * 253 + " bcd", "a" * 253 + "…"),
    ],
)
def test_a_title_is_one_short_clean_line(render: Render, given_title: str, title: str) -> None:
    assert render("{{ data.t }}", t=given_title).title == title


@pytest.mark.parametrize(
    ("given_message", "message"),
    [
        (" a\n\n b\t\n", "a\n\n b"),
        ("a\r\nb", "a\nb"),
        ("a\x00\x07\x9bb\u202ec\u2069", "abc"),
        ("", ""),
        ("a" * 10_001, "a" * 9_999 + "…"),
    ],
)
def test_a_message_keeps_its_lines(render: Render, given_message: str, message: str) -> None:
    assert render(message="{{ data.m }}", m=given_message).message == message


def test_any_text_becomes_a_title_and_a_message_that_can_be_stored(wording: Callable[..., Wording]) -> None:
    said = wording("-{{ data }}", "{{ data }}")

    @given(st.text(st.characters(exclude_categories=[]), max_size=300))
    def holds(text: str) -> None:
        content = said.render({"data": text})
        for stored, longest in ((content.title, 255), (content.message, 10_000)):
            stored.encode()
            assert len(stored) <= longest
            assert stored == stored.strip()
            assert not INVISIBLE & set(stored)
        assert content.title.splitlines() == [content.title]

    holds()


@pytest.mark.parametrize("title", ["", "  \n", "{{ data.t }}"])
def test_an_empty_title_is_an_error(render: Render, title: str) -> None:
    with pytest.raises(TemplateError, match=r"^templates/x/title\.txt\.j2:1: gives an empty title$"):
        render(title, t=" \x00 ")


def test_the_action_url_is_checked_where_it_is_made(render: Render) -> None:
    assert render(url=" \n").action_url is None
    assert render(url="{{ data.u }}", u="https://shop.example/x").action_url == "https://shop.example/x"
    with pytest.raises(TemplateError) as caught:
        render(url="{{ data.u }}", u="javascript:alert(1)")
    assert str(caught.value) == (
        "templates/x/action_url.txt.j2:1: the action URL must be a path such as /posts/1, or start with https://"
    )


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("\n\n{{ data.userName }}", "3: 'dict object' has no attribute 'userName'"),
        ("\n{{ usr }}", "2: 'usr' is undefined"),
        ("{% if data.x %}{% endif %}", "1: 'dict object' has no attribute 'x'"),
        ("{{ data.text.x }}", "1: 'str object' has no attribute 'x'"),
        ("\n{{ data.text + 1 }}", '2: TypeError: can only concatenate str (not "int") to str'),
        ("{{ 1 / 0 }}", "1: ZeroDivisionError: division by zero"),
        ("{{ ''.__class__ }}", "1: access to attribute '__class__' of 'str' object is unsafe."),
        ("\n{{ data.list.append(1) }}", "2: access to attribute 'append' of 'list' object is unsafe."),
        ("{% include 'nope.j2' %}", "1: there is no template 'nope.j2'"),
        ("{% include data.text %}", "1: there is no template 'secret'"),
        ("\n{% macro m() %}\n{{ m() }}{% endmacro %}{{ m() }}", "3: RecursionError: "),
        ("{{ 10.0 ** 999 }}", "1: OverflowError: "),
        ("{% for i in range(10**9) %}x{% endfor %}", "1: OverflowError: "),
    ],
)
def test_an_error_names_file_and_line(render: Render, template: str, says: str) -> None:
    text = failure(render, template, text="secret", list=[1])
    assert text.startswith(f"templates/x/message.txt.j2:{says}")


def test_an_error_in_an_included_file_names_that_file(wording: Callable[..., Wording]) -> None:
    said = wording(message="\n\n{% include '_parts/a.txt.j2' %}", **{"_parts/a.txt": "\n{{ nope }}"})
    with pytest.raises(TemplateError, match=r"^templates/_parts/a\.txt\.j2:2: 'nope' is undefined$"):
        said.render({})


def test_an_error_never_repeats_a_value(render: Render) -> None:
    text = failure(render, "{{ data.text.encode('ascii') }}", text="Grün")
    assert text.startswith("templates/x/message.txt.j2:1: UnicodeEncodeError: ")
    assert "ü" not in text
    assert "fc" not in text


class Explodes:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error


@pytest.mark.parametrize("error", [MemoryError(), KeyError("k"), RuntimeError("a\nb"), StopIteration()])
def test_any_exception_becomes_a_template_error(render: Render, error: Exception) -> None:
    assert failure(render, "{{ data.x }}", x=Explodes(error)).startswith("templates/x/message.txt.j2:")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ 'a' * 1000000000 }}", "the result of * is too large"),
        ("{{ ('a' * 100001) | length }}", "the result of * is too large"),
        ("{{ 1000000000 * 'a' }}", "the result of * is too large"),
        ("{{ 'a' * data.n }}", "the result of * is too large"),
        ("{{ [1, 2] * 1000000000 }}", "the result of * is too large"),
        ("{{ (10 ** 300) * (10 ** 300) }}", "the result of * is too large"),
        ("{{ 10 ** 1000000000 }}", "** takes numbers up to 1000"),
        ("{{ 1000000000 ** 10 }}", "** takes numbers up to 1000"),
        ("{{ '%1000000000s' % 'x' }}", "% does not format text here: write {{ … }} instead"),
        ("{{ data.f % 'x' }}", "% does not format text here: write {{ … }} instead"),
        ("{{ '{:>1000000000}'.format('x') }}", "text has no format() here: write {{ … }} instead"),
        ("{{ '{x:>9}'.format_map({'x': 1}) }}", "text has no format() here: write {{ … }} instead"),
        ("{{ ''['format'](1) }}", "text has no format() here: write {{ … }} instead"),
        *(
            (f"{{{{ 'x'.{name}(1000000000) }}}}", f"access to attribute '{name}' of 'str' object is unsafe.")
            for name in ("ljust", "rjust", "center", "zfill", "expandtabs")
        ),
        ("{{ 1 | round(1000000000, 'floor') }}", "round takes a precision up to 20"),
        ("{% for i in range(99999) %}xx{% endfor %}", "gives more than 100,000 characters"),
        (
            "{% for i in range(9999) %}{% for i in range(99999) %}x{% endfor %}{% endfor %}",
            "gives more than 100,000 characters",
        ),
    ],
)
def test_a_memory_bomb_does_not_go_off(render: Render, template: str, says: str) -> None:
    text = failure(render, template, n=10**9, f="%1000000000s")
    assert text == f"templates/x/message.txt.j2:1: {says}"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ '-' * 3 }}{{ 3 * '+' }}", "---+++"),
        ("{{ 2 ** 10 }} {{ 2 * 1.5 }} {{ 7 % 4 }}", "1024 3.0 3"),
        ("{{ 19.996 | round(2) }}", "20.0"),
        ("{{ ['a', 'b'] | join(', ') }} {{ data.x | default('no') }}", "a, b no"),
        ("{% set n = namespace(a=0) %}{% for i in range(3) %}{% set n.a = n.a + i %}{% endfor %}{{ n.a }}", "3"),
    ],
)
def test_everyday_arithmetic_works(render: Render, template: str, text: str) -> None:
    assert render(message=template).message == text


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("\n{{ data.", "2: "),
        ("a\nb\n{% if x %}", "3: Unexpected end of template."),
        ("\n{% frobnicate %}", "2: Encountered unknown tag 'frobnicate'."),
        *((f"\n{{{{ 1 | {name} }}}}", f"2: No filter named '{name}'.") for name in ("nope", "format", "center")),
        *((f"\n{{{{ 1 | {name} }}}}", f"2: No filter named '{name}'.") for name in ("indent", "random", "attr")),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "1: RecursionError: "),
    ],
)
def test_a_template_that_cannot_be_compiled_is_found_at_load(
    wording: Callable[..., Wording], template: str, says: str
) -> None:
    with pytest.raises(TemplateError) as caught:
        wording(message=template)
    assert str(caught.value).startswith(f"templates/x/message.txt.j2:{says}")


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "title.txt.j2").write_bytes(b"\xff")
    with pytest.raises(TemplateError, match=r"/x/title\.txt\.j2: cannot be read as UTF-8 text"):
        Sandbox(tmp_path)


def test_several_threads_render_at_once(wording: Callable[..., Wording]) -> None:
    said = wording("{% set a = data %}{{ a }}", "{{ data }}", "/{{ data }}")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: said.render({"data": n}), range(2000)))
    assert found == [Content(str(n), str(n), f"/{n}") for n in range(2000)]
