"""Web push endpoints: to which of the addresses that browsers bring us we may talk.

A subscription's endpoint (RFC 8030) comes from outside and is called by us, so it could name a server of our own
network (server-side request forgery, OWASP ASVS 5.0 1.3.6). Two checks stand before that: `allowed` when it is
registered and again before it is used, by its spelling; `check_resolved` before it is used, by where its name
leads now. What two readers of a URL could read differently is refused, not repaired.
"""

import ipaddress
import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

LONGEST = 2048
"""Characters of an endpoint."""

_URL = re.compile(r"(https?)://([^/?]+)([/?].*)?", re.IGNORECASE)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_AUTHORITY = re.compile(rf"({_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::([0-9]{{1,5}}))?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

_NOT_PUBLIC = (
    IPv4Network("168.63.129.16/32"),  # Azure's metadata, at a public address
    IPv4Network("192.0.0.0/24"),  # protocol assignments, one of which is Oracle's metadata
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
)
_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


def listed(hosts: str) -> frozenset[str]:
    """The hosts of a comma-separated list, such as TOCSIN_PUSH_HOSTS, for `allowed`."""
    return frozenset(host.strip().lower() for host in hosts.split(",") if host.strip())


def allowed(url: str, hosts: frozenset[str]) -> str | None:
    """None when `url` may be called, else why not, to follow "the endpoint …"; it is never repeated.

    `hosts` are in lower case: `name` and `*.name` (whatever is below name, and not name itself) stand for https on
    its usual port; `name:port` for http and https on that one, which is for machines of one's own. An IP address
    must be listed as it is.
    """
    if len(url) > LONGEST:
        return f"is longer than {LONGEST:,} characters"
    found = _URL.fullmatch(url)
    if not found or not (url.isascii() and url.isprintable()) or any(c in url for c in " \\#"):
        return "must be an https:// URL as a browser's push subscription gives it"
    scheme, authority = found[1].lower(), found[2].lower()
    if "@" in authority:
        return "must not carry a user name"
    if authority in hosts and ":" in authority.rpartition("]")[2]:
        return None
    parts = _AUTHORITY.fullmatch(authority)
    if not parts or len(parts[1]) > 253 or not _among(parts[1], hosts):
        return "is at a host that TOCSIN_PUSH_HOSTS does not list"
    if scheme != "https":
        return "must begin with https://"
    if parts[2] not in (None, "443"):
        return "must use port 443"
    return None


def _among(host: str, hosts: frozenset[str]) -> bool:
    if host in hosts:
        return True
    labels = host.split(".")
    if host.startswith("[") or _NUMBER.fullmatch(labels[-1]):  # an address, however it is written
        return False
    return any("*." + ".".join(labels[start:]) in hosts for start in range(1, len(labels)))


def check_resolved(host: str) -> str | None:
    """None when every address of `host` is a public one, else why it may not be called. For the moment of sending,
    since a name may lead elsewhere today; not for hosts that are listed with a port. Raises OSError when the name
    cannot be resolved just now."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), 443, type=socket.SOCK_STREAM)
    except UnicodeError:
        return "is no host name"
    for *_, address in found:
        if not public(str(address[0])):
            return "leads into a private or reserved network"
    return None


def public(address: str) -> bool:
    """Whether an IP address is one of the public Internet, also where it stands for one of IPv4 (mapped, NAT64 of
    RFC 6052, 6to4 of RFC 3056)."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, IPv6Address):
        inner = _inner(ip)
        if inner is None:
            return ip in _UNICAST and ip.is_global
        ip = inner
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NOT_PUBLIC)


def _inner(ip: IPv6Address) -> IPv4Address | None:
    nat64 = IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
    return ip.ipv4_mapped or ip.sixtofour or nat64
