"""Action URLs: what passes leads, for a browser, to the embedding application or to a listed host."""

from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines import links

HOSTS = frozenset({"shop.example", "localhost:3000", "müller.example"})


@pytest.mark.parametrize(
    "url",
    [
        "/",
        "/posts/1",
        "/posts/1?a=b&c=%20#comment-2",
        "/posts/über",
        "/redirect?to=https://evil.example",
        "/a//b",
        "https://shop.example",
        "https://shop.example/",
        "HTTPS://Shop.Example/a?b#c",
        "http://shop.example:80/",
        "https://shop.example:443/",
        "http://localhost:3000/x",
        "https://müller.example/",
        "https://shop.example/a@b",
        "/" + "a" * 499,
    ],
)
def test_passes(url: str) -> None:
    assert links.check(url, HOSTS) is None


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("", "is empty"),
        ("/" + "a" * 500, "is longer than 500 characters"),
        ("//evil.example", "must start with one slash, not two"),
        ("///evil.example", "must start with one slash, not two"),
        ("posts/1", "must be a path such as /posts/1, or start with https://"),
        ("?a", "must be a path such as /posts/1, or start with https://"),
        ("javascript:alert(1)", "must be a path such as /posts/1, or start with https://"),
        ("JavaScript://shop.example/%0aalert(1)", "must be a path such as /posts/1, or start with https://"),
        ("data:text/html,x", "must be a path such as /posts/1, or start with https://"),
        ("vbscript:x", "must be a path such as /posts/1, or start with https://"),
        ("intent://shop.example#Intent;end", "must be a path such as /posts/1, or start with https://"),
        ("ftp://shop.example/", "must be a path such as /posts/1, or start with https://"),
        ("https:shop.example", "must be a path such as /posts/1, or start with https://"),
        ("https:/shop.example", "must be a path such as /posts/1, or start with https://"),
        ("https:///shop.example", "must be a path such as /posts/1, or start with https://"),
        ("https://?shop.example", "must be a path such as /posts/1, or start with https://"),
        ("https://shop.example@evil.example/", "must not carry a user name"),
        ("https://a:b@shop.example/", "must not carry a user name"),
        *(
            (url, "contains a space, a backslash or an invisible character")
            for url in (
                "/\\evil.example",
                "\\\\evil.example",
                "https://shop.example\\@evil.example",
                " /posts/1",
                "/posts/1 ",
                "/\tx",
                "/\n/evil.example",
                "java\nscript:alert(1)",
                "\x01javascript:alert(1)",
                "/posts/\x00",
                "/posts/\x7f",
                "/posts/\u2028",
                "/posts/\u202egnp.exe",
                "/posts/\u00a0",
                "/posts/\ud800",
            )
        ),
        *(
            (url, "leads to a host that TOCSIN_LINK_HOSTS does not list")
            for url in (
                "https://evil.example/",
                "https://shop.example.evil.example/",
                "https://evilshop.example/",
                "https://shop.example./",
                "https://shop.example:8443/",
                "https://shop.example:80/",
                "http://shop.example:443/",
                "http://localhost/",
                "https://sho%70.example/",
                "https://ＳＨＯＰ.example/",
                "https://MÜLLER.example/",
                "https://[::1]/",
                "https://2130706433/",
            )
        ),
    ],
)
def test_refused_with_a_reason(url: str, wrong: str) -> None:
    assert links.check(url, HOSTS) == wrong


@pytest.mark.parametrize("url", ["https://shop.example/", "http://localhost:3000/"])
def test_without_hosts_only_paths_pass(url: str) -> None:
    assert links.check("/posts/1", frozenset()) is None
    assert links.check(url, frozenset()) == "leads to a host that TOCSIN_LINK_HOSTS does not list"


def browser_host(url: str) -> str | None:
    """Where a browser goes from a page of https://app.example, told from the WHATWG URL Standard's states:
    "app.example" for the page's own origin, None for what is no http(s) at all."""
    url = "".join(c for c in url.strip("".join(map(chr, range(33)))) if c not in "\t\n\r")
    scheme, colon, rest = url.partition(":")
    if not (colon and scheme and scheme[0].isascii() and scheme[0].isalpha() and is_scheme(scheme)):
        scheme, rest = "https", url
        if not rest.replace("\\", "/").startswith("//"):
            return "app.example"
    elif scheme.lower() not in ("http", "https"):
        return None
    elif scheme.lower() == "https" and not rest.replace("\\", "/").startswith("//"):
        return "app.example"  # a relative URL that repeats the page's scheme
    authority = rest.lstrip("/\\")
    for end in "/\\?#":
        authority = authority.partition(end)[0]
    return unquote(authority.rpartition("@")[2]).lower()


def is_scheme(text: str) -> bool:
    return all(c.isascii() and (c.isalnum() or c in "+-.") for c in text)


PIECES = ["http", "https", "javascript", ":", "/", "//", "\\", "@", "?", "#", ".", ":80", ":443", ":3000", "%2f"]
PIECES += ["shop.example", "localhost", "evil.example", "\t", "\n", " ", "\x00", "a", "Ü", "\u3002", "\u202e"]


@given(st.lists(st.sampled_from(PIECES) | st.characters(), max_size=9).map("".join))
@example("/\\evil.example")
@example("https://shop.example#@evil.example")
@example("https:\\\\evil.example")
@example("/\t/evil.example")
def test_what_passes_stays_on_the_site_or_goes_to_a_listed_host(url: str) -> None:
    if links.check(url, HOSTS) is None:
        allowed = {"app.example", *HOSTS, "shop.example:80", "shop.example:443"}
        assert browser_host(url) in allowed | {"müller.example:80", "müller.example:443"}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("/a", "app.example"),
        ("a", "app.example"),
        ("https:a", "app.example"),
        ("//evil.example/a", "evil.example"),
        ("/\\evil.example", "evil.example"),
        ("/\t/evil.example", "evil.example"),
        ("http:evil.example", "evil.example"),
        ("https:\\\\good@evil.example\\x", "evil.example"),
        (" java\nscript:x", None),
    ],
)
def test_the_browser_of_these_tests_reads_like_a_browser(url: str, host: str | None) -> None:
    assert browser_host(url) == host
