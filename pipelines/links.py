"""Links: which action URLs may stand behind a notification. Checked at the door (`"format": "action-url"`
in a type's schema) and again on what a template made of it.

The rules keep browsers and this check of one mind. Browsers follow the WHATWG URL Standard, which drops tabs
and newlines, reads a backslash as a slash and forgives missing slashes: `/\\evil.example` leaves the site. What
two readers could read differently is refused, not repaired.
"""

import re

LONGEST = 500
"""Characters of an action URL."""

_ABSOLUTE = re.compile(r"(https?)://([^/?#]+)", re.IGNORECASE)
_USUAL_PORT = {"http": ":80", "https": ":443"}


def check(url: str, hosts: frozenset[str]) -> str | None:
    """None when `url` may be opened from a notification, else what is wrong with it, without repeating it.

    Allowed are a path of the embedding application (`/posts/1#c2`) and http(s) to one of `hosts`: lower case,
    compared whole, `name` or `name:port`; a name without a port means its scheme's usual one. A host outside
    ASCII must be written as it is listed. With no hosts, only paths pass.
    """
    if not url:
        return "is empty"
    if len(url) > LONGEST:
        return f"is longer than {LONGEST} characters"
    if not url.isprintable() or " " in url or "\\" in url:
        return "contains a space, a backslash or an invisible character"
    if url.startswith("/"):
        return "must start with one slash, not two" if url.startswith("//") else None
    return _check_absolute(url, hosts)


def _check_absolute(url: str, hosts: frozenset[str]) -> str | None:
    absolute = _ABSOLUTE.match(url)
    if not absolute:
        return "must be a path such as /posts/1, or start with https://"
    scheme, host = absolute[1].lower(), absolute[2]
    if "@" in host:
        return "must not carry a user name"
    if host.isascii():  # outside ASCII, Python's idea of lower case need not be the browser's
        host = host.lower()
    if host not in hosts and host.removesuffix(_USUAL_PORT[scheme]) not in hosts:
        return "leads to a host that TOCSIN_LINK_HOSTS does not list"
    return None
