"""Web push endpoints: nothing but the push services that are listed is ever called."""

import ipaddress
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.endpoints import LONGEST, allowed, check_resolved, listed, public

HOSTS = listed(
    " fcm.googleapis.com, updates.push.services.mozilla.com, *.push.apple.com, *.Notify.Windows.com,"
    "127.0.0.1:8002,[::1]:8002, 192.0.2.7,"
)

FORM = "must be an https:// URL as a browser's push subscription gives it"
HOST = "is at a host that TOCSIN_PUSH_HOSTS does not list"
PORT = "must use port 443"


@pytest.mark.parametrize(
    "url",
    [
        "https://fcm.googleapis.com/fcm/send/abc:APA91b-_",
        "https://updates.push.services.mozilla.com/wpush/v2/gAAAAA%20",
        "https://web.push.apple.com/QF",
        "https://a.b.push.apple.com/QF",
        "https://wns2-par02p.notify.windows.com/w/?token=BQ%3d%3d",
        "HTTPS://FCM.GoogleAPIs.com/x",
        "https://fcm.googleapis.com:443/x",
        "https://fcm.googleapis.com",
        "https://fcm.googleapis.com?x",
        "https://fcm.googleapis.com/a@b:c//d",
        "https://192.0.2.7/x",
        "http://127.0.0.1:8002/push/1",
        "https://127.0.0.1:8002/push/1",
        "http://[::1]:8002/push/1",
        "https://fcm.googleapis.com/" + "a" * (LONGEST - 27),
    ],
)
def test_passes(url):
    assert allowed(url, HOSTS) is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://fcm.googleapis.com/" + "a" * (LONGEST - 26), "is longer than 2,048 characters"),
        *(
            (url, FORM)
            for url in (
                "",
                "/x",
                "//evil.example/x",
                "///evil.example/x",
                "\\\\evil.example\\x",
                "/\\evil.example/x",
                "https:fcm.googleapis.com/x",
                "https:/fcm.googleapis.com/x",
                "https:///fcm.googleapis.com/x",
                "https:\\\\fcm.googleapis.com/x",
                "ftp://fcm.googleapis.com/x",
                "file:///etc/passwd",
                "gopher://fcm.googleapis.com/x",
                "javascript:alert(1)",
                "https://fcm.googleapis.com\\@evil.example/x",
                "https://evil.example\\.push.apple.com/x",
                "https://evil.example#.push.apple.com/x",
                "https://fcm.googleapis.com/x#y",
                " https://fcm.googleapis.com/x",
                "https://fcm.googleapis.com/x ",
                "https://fcm.googleapis.com/x\n",
                "https://fcm.googleapis.com/\r\nHost: evil.example",
                "https://fcm.goo\tgleapis.com/x",
                "https://fcm.googleapis.com/\x00",
                "https://fcm.googleapis.com/ü",
                "https://ｆｃｍ.googleapis.com/x",
                "https://fcm。googleapis。com/x",
                "https://fcm\u00ad.googleapis.com/x",
            )
        ),
        *(
            (url, "must not carry a user name")
            for url in (
                "https://fcm.googleapis.com@evil.example/x",
                "https://evil.example@fcm.googleapis.com/x",
                "https://a:b@fcm.googleapis.com/x",
                "http://127.0.0.1:8002@evil.example/x",
            )
        ),
        *(
            (url, HOST)
            for url in (
                "https://evil.example/x",
                "https://evil.example?fcm.googleapis.com/x",
                "https://evil.example/fcm.googleapis.com",
                "https://fcm.googleapis.com.evil.example/x",
                "https://evilfcm.googleapis.com/x",
                "https://googleapis.com/x",
                "https://push.apple.com/x",
                "https://evilpush.apple.com/x",
                "https://.push.apple.com/x",
                "https://a..push.apple.com/x",
                "https://-a.push.apple.com/x",
                "https://*.push.apple.com/x",
                "https://fcm.googleapis.com./x",
                "https://web.push.apple.com./x",
                "https://web.push.apple.com.:443/x",
                "https://fcm%2egoogleapis.com/x",
                "https://evil.example%2f.push.apple.com/x",
                "https://fcm.googleapis.com:/x",
                "https://fcm.googleapis.com:443:443/x",
                "https://fcm.googleapis.com:+443/x",
                f"https://{'a' * 64}.push.apple.com/x",
                f"https://{'a.' * 120}push.apple.com/x",
                "https://localhost/x",
                "https://127.0.0.1/x",
                "https://127.0.0.1:8003/x",
                "http://127.0.0.1:80/x",
                "https://127.1:8002/x",
                "https://2130706433/x",
                "https://2130706433:8002/x",
                "https://0x7f000001/x",
                "https://0x7f.1/x",
                "https://017700000001/x",
                "https://169.254.169.254/latest/meta-data",
                "https://[::1]/x",
                "https://[::ffff:127.0.0.1]:8002/x",
                "https://[::ffff:10.0.0.1]/x",
                "https://[fe80::1%25eth0]/x",
                "https://[64:ff9b::a9fe:a9fe]/x",
                "https://192.0.2.8/x",
            )
        ),
        ("http://fcm.googleapis.com/x", "must begin with https://"),
        ("http://fcm.googleapis.com:443/x", "must begin with https://"),
        ("http://192.0.2.7/x", "must begin with https://"),
        ("https://fcm.googleapis.com:22/x", PORT),
        ("https://fcm.googleapis.com:8443/x", PORT),
        ("https://web.push.apple.com:80/x", PORT),
        ("https://fcm.googleapis.com:0443/x", PORT),
    ],
)
def test_refused_with_a_reason_that_does_not_repeat_it(url, why):
    assert allowed(url, HOSTS) == why


def test_a_wildcard_never_stands_for_an_address():
    hosts = listed("*.0.0.1, *.1, *")
    for host in ("127.0.0.1", "127.0.0.0x1", "127.1", "10.0.0.1", "1", "evil.example"):
        assert allowed(f"https://{host}/x", hosts) == HOST


def test_nothing_listed_nothing_allowed():
    assert listed("") == listed(" , ") == frozenset()
    assert allowed("https://fcm.googleapis.com/x", frozenset()) == HOST
    assert allowed("https:///x", listed(",")) == FORM


PIECES = [
    "https://",
    "http://",
    "fcm.googleapis.com",
    ".push.apple.com",
    "127.0.0.1:8002",
    "evil.example",
    "@",
    ":",
]
PIECES += ["/", "\\", "?", "#", "%", ".", "443", "22", "[::1]", "\t", "\n", "a", "ü", "。", "*"]


@given(st.lists(st.sampled_from(PIECES) | st.characters(), max_size=8).map("".join))
@example("https://fcm.googleapis.com@evil.example")
@example("https://fcm.googleapis.com:@evil.example")
def test_what_passes_is_called_where_it_is_listed(url):
    """As the standard library reads it, which pywebpush's HTTP client follows."""
    if allowed(url, HOSTS) is None:
        parts = urlsplit(url)
        usual = parts.scheme == "https" and parts.port in (None, 443)
        named = parts.hostname in HOSTS or parts.hostname.endswith((".push.apple.com", ".notify.windows.com"))
        assert (usual and named) or parts.netloc in ("127.0.0.1:8002", "[::1]:8002")
        assert parts.username is None


INSIDE = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 100.100.100.200 127.0.0.1 127.1.2.3
169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1
198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:a9fe:a9fe ::ffff:0:127.0.0.1
64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1:: 2002:a9fe:a9fe::1
2002:6440:1:: 4000::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1
"""
OUTSIDE = """
8.8.8.8 17.0.0.1 142.250.1.1 100.63.255.255 100.128.0.0 172.32.0.1 168.63.129.17
2a00:1450::1 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1
"""
NAMES = """
localhost 127.0.0.1 [::1] ::1 [::ffff:10.0.0.1] 10.0.0.1 169.254.169.254 2130706433 0x7f.1 127.1 0177.0.0.1 0
fe80::1%1 [64:ff9b::a00:1] 100.64.0.1 224.0.0.1
"""


@pytest.mark.parametrize("address", INSIDE.split())
def test_an_address_of_no_public_network_is_refused(address):
    assert not public(address)


@pytest.mark.parametrize("address", OUTSIDE.split())
def test_an_address_of_the_internet_is_not(address):
    assert public(address)


@given(st.ip_addresses(v=4), st.integers(0, 2**16 - 1))
def test_standing_for_an_address_of_ipv4_changes_nothing(address, low):
    number = int(address)
    for carrier in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80 | low):
        assert public(str(ipaddress.IPv6Address(carrier))) == public(str(address))


@pytest.mark.parametrize("host", NAMES.split())
def test_a_name_that_leads_inside_is_refused(host):
    assert check_resolved(host) == "leads into a private or reserved network"


@pytest.mark.parametrize("host", ["8.8.8.8", "2606:4700::1111", "[2606:4700::1111]"])
def test_a_name_that_leads_outside_passes(host):
    assert check_resolved(host) is None


def test_a_name_that_leads_nowhere_now_may_later():
    with pytest.raises(OSError, match=r"\w"):
        check_resolved("no-such-host.invalid")
    assert check_resolved(f"{'a' * 64}.example") == "is no host name"
