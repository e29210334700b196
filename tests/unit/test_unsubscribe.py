"""Links that stop emails: ours are read back, whatever they say; no others are."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as how
from hypothesis import strategies as st
from itsdangerous import URLSafeSerializer, URLSafeTimedSerializer

from schema.errors import TocsinError
from workers import unsubscribe
from workers.settings import settings

SECRET = "a-secret-of-at-least-thirty-two-bytes"
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=128)
same_secret = how(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """configure(jwt_secret=…): these settings, and no others."""

    def configured(**variables: str) -> None:
        for name in ("jwt_secret", "previous_secret", "public_url"):
            monkeypatch.setenv(f"TOCSIN_{name.upper()}", variables.get(name, ""))
        settings.cache_clear()

    configured(jwt_secret=SECRET)
    yield configured
    settings.cache_clear()


def token(user: str = "ada", category: str = "social") -> str:
    return unsubscribe.link(user, category).rpartition("/")[2]


@same_secret
@given(user=texts, category=texts)
@example(user="ada@example.org", category="social")
@example(user="ä b/..?#%00", category="\n")
def test_what_a_link_says_is_read_back(configure: Configure, user: str, category: str) -> None:
    signed = token(user, category)
    assert unsubscribe.read(signed) == (user, category)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", signed), "it stands in a header and in a path"
    assert token(user, category) == signed


def test_a_link_is_short_and_says_nobody_an_address(configure: Configure) -> None:
    signed = token("user-12345", "social")
    assert len(signed) < 80
    said = base64.urlsafe_b64decode(signed.partition(".")[0] + "==")
    assert said == b'["user-12345","social"]'


@same_secret
@given(text=st.text(st.characters(codec="utf-8"), max_size=200))
@example(text="")
@example(text=".")
@example(text=".eJyrVkpUslJQMlTSUUqEMIxqAQ.x")
@example(text="W10.W10")
def test_any_other_text_is_no_token(configure: Configure, text: str) -> None:
    assert unsubscribe.read(text) is None


@same_secret
@given(place=st.integers(0, 60), letter=st.sampled_from("Aa0_-."))
def test_a_token_with_another_letter_is_none(configure: Configure, place: int, letter: str) -> None:
    """But for the last one, which has bits that base64 does not use."""
    signed = token()
    place %= len(signed) - 1
    changed = signed[:place] + letter + signed[place + 1 :]
    assert (unsubscribe.read(changed) is None) == (changed != signed)


def test_a_part_of_one_token_does_not_fit_another(configure: Configure) -> None:
    (said, sign), (other, other_sign) = (token(user).split(".") for user in ("ada", "bob"))
    assert unsubscribe.read(f"{said}.{other_sign}") is None
    assert unsubscribe.read(f"{other}.{sign}") is None


def serializer(secret: str, purpose: str = unsubscribe.PURPOSE) -> URLSafeSerializer:
    """As ours is made."""
    signer = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(secret, salt=purpose, signer_kwargs=signer)


FOREIGN = {
    "another key": serializer("another" * 8),
    "another purpose": serializer(SECRET, "tocsin/click"),
    "no key": serializer(""),
    "the library's own derivation": URLSafeSerializer(SECRET, salt=unsubscribe.PURPOSE),
    "with a time": URLSafeTimedSerializer(SECRET, salt=unsubscribe.PURPOSE),
}


def test_ours_is_made_so(configure: Configure) -> None:
    assert unsubscribe.read(serializer(SECRET).dumps(["ada", "social"])) == ("ada", "social")


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_what_was_signed_otherwise_is_no_token(configure: Configure, foreign: URLSafeSerializer) -> None:
    assert unsubscribe.read(foreign.dumps(["ada", "social"])) is None


@pytest.mark.parametrize("content", [["ada"], ["a", "b", "c"], ["a", 1], {"ada": "social"}, "as", None])
def test_signed_by_us_but_of_another_form(configure: Configure, content: object) -> None:
    assert unsubscribe.read(serializer(SECRET).dumps(content)) is None


def test_a_replaced_secret_still_verifies_and_signs_no_more(configure: Configure) -> None:
    before = token()
    configure(jwt_secret="new" * 12, previous_secret=SECRET)
    assert unsubscribe.read(before) == ("ada", "social")
    after = token()
    assert after != before
    configure(jwt_secret="new" * 12)
    assert unsubscribe.read(after) == ("ada", "social")
    assert unsubscribe.read(before) is None


def test_without_a_secret_nothing_is_signed_and_nothing_is_read(configure: Configure) -> None:
    signed = token()
    configure()
    with pytest.raises(TocsinError, match="TOCSIN_JWT_SECRET"):
        unsubscribe.link("ada", "social")
    assert unsubscribe.read(signed) is None
    assert unsubscribe.read(serializer("").dumps(["ada", "social"])) is None


@pytest.mark.parametrize(
    ("public_url", "begin"),
    [
        ("", "http://127.0.0.1:8000/unsubscribe/"),
        ("https://notify.example.org", "https://notify.example.org/unsubscribe/"),
        ("https://notify.example.org/", "https://notify.example.org/unsubscribe/"),
    ],
)
def test_where_a_link_leads(configure: Configure, public_url: str, begin: str) -> None:
    configure(jwt_secret=SECRET, public_url=public_url)
    assert unsubscribe.link("ada", "social") == begin + token()
