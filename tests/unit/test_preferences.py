"""What the type's default, the user's own words and the fleet leave open; why the rest is closed; and when what is
open is told."""

from collections.abc import Collection
from uuid import UUID

import pytest

from pipelines.kinds import NotificationType
from pipelines.preferences import Choice, Wish, narrow
from pipelines.timing import parse
from schema.notification import CHANNELS, Notification

NEW = Notification(UUID(int=7), "c-1", "comment", "ada", "normal", CHANNELS, {}, "post-9")
ALL = frozenset(CHANNELS)
WEB = frozenset({"web"})

QUIET = {"web": True, "email": False, "push": False}
LOUD = {"web": True, "email": True, "push": True}
SILENT = {"web": False, "email": False, "push": False}

NOTHING = Choice()
ON = Choice(True)
OFF = Choice(False)

OPEN, DEFAULT, PREFERENCE, MUTED = "open", "type_default", "preference", "muted"

# One channel: the type's default, then what is said of the type, of its category and of everything -> email.
HIERARCHY: list[tuple[bool, Wish | None, Wish | None, Wish | None, str]] = [
    # default  type   category global   email
    (False, None, None, None, DEFAULT),
    (True, None, None, None, OPEN),
    (False, None, None, True, OPEN),
    (True, None, None, False, PREFERENCE),
    (False, None, True, None, OPEN),
    (True, None, False, None, PREFERENCE),
    (False, None, True, False, OPEN),
    (True, None, False, True, PREFERENCE),
    (False, True, None, None, OPEN),
    (True, False, None, None, PREFERENCE),
    (False, True, False, None, OPEN),
    (True, False, True, None, PREFERENCE),
    (False, True, None, False, OPEN),
    (True, False, None, True, PREFERENCE),
    (False, True, False, False, OPEN),
    (True, False, True, True, PREFERENCE),
    (False, None, "digest daily", False, OPEN),
    (True, False, "digest daily", True, PREFERENCE),
    (False, "if offline", False, False, OPEN),
]

# All of it: what is said of the type, of its category and of everything -> whether anything comes.
ENABLED: list[tuple[bool | None, bool | None, bool | None, str]] = [
    # type  category  global
    (None, None, None, OPEN),
    (None, None, False, MUTED),
    (None, None, True, OPEN),
    (None, False, None, MUTED),
    (None, True, False, OPEN),
    (None, False, True, MUTED),
    (False, None, None, MUTED),
    (False, True, True, MUTED),
    (True, False, False, OPEN),
    (True, None, False, OPEN),
    (True, False, None, OPEN),
]

# When: the type's rule, then what is said of the type, of its category and of everything -> the rule that holds.
TIMES: list[tuple[str, Wish | None, Wish | None, Wish | None, str | None]] = [
    ("now", None, None, None, None),
    ("if unread after 15m", None, None, None, "if unread after 15m"),
    ("if unread after 15m", True, None, None, "if unread after 15m"),
    ("if unread after 15m", "now", None, None, None),
    ("if unread after 15m", "digest 1h", None, None, "digest 1h"),
    ("if unread after 15m", None, "digest daily", None, "digest daily"),
    ("if unread after 15m", None, None, "digest weekly", "digest weekly"),
    ("digest daily", True, "if offline", "digest 1h", "digest daily"),
    ("digest daily", None, "if offline", "digest 1h", "if offline"),
    ("now", True, "digest daily", None, None),
    ("now", "if unread after 90s", "digest daily", None, "if unread after 90s"),
    ("now", None, "now", "digest daily", None),
]

# Each channel's answer in the order web, email, push: "open", or why it is closed.
CASES = [
    # the type's default      what is said of the type    served  web             email           push
    ("quiet, nobody said", QUIET, None, ALL, ("open", "type_default", "type_default")),
    ("loud, nobody said", LOUD, None, ALL, ("open", "open", "open")),
    ("silent, nobody said", SILENT, None, ALL, ("type_default", "type_default", "type_default")),
    ("a row that says nothing", QUIET, ON, ALL, ("open", "type_default", "type_default")),
    ("the type is off", LOUD, OFF, ALL, ("muted", "muted", "muted")),
    ("off beats a channel on", LOUD, Choice(False, LOUD), ALL, ("muted", "muted", "muted")),
    ("one off", LOUD, Choice(True, {"email": False}), ALL, ("open", "preference", "open")),
    ("one on", QUIET, Choice(True, {"email": True}), ALL, ("open", "open", "type_default")),
    (
        "off, and off by default",
        QUIET,
        Choice(True, {"email": False}),
        ALL,
        ("open", "preference", "type_default"),
    ),
    ("all on against silence", SILENT, Choice(True, LOUD), ALL, ("open", "open", "open")),
    ("all off", LOUD, Choice(True, SILENT), ALL, ("preference", "preference", "preference")),
    ("a channel nobody has", QUIET, Choice(True, {"pigeon": True}), ALL, ("open", "type_default", "type_default")),
    ("loud, only web runs", LOUD, None, WEB, ("open", "not_served", "not_served")),
    ("one on, only web runs", QUIET, Choice(True, {"push": True}), WEB, ("open", "type_default", "not_served")),
    ("not wanted, not served", LOUD, Choice(True, {"push": False}), WEB, ("open", "not_served", "preference")),
    ("nothing runs", QUIET, None, frozenset(), ("not_served", "type_default", "type_default")),
]
CRITICAL = [
    ("the type is off", QUIET, OFF, ALL, ("open", "type_default", "type_default")),
    ("all off", LOUD, Choice(True, SILENT), ALL, ("open", "open", "open")),
    ("one on", QUIET, Choice(True, {"email": True}), ALL, ("open", "type_default", "type_default")),
    ("the default holds", SILENT, OFF, ALL, ("type_default", "type_default", "type_default")),
    ("only web runs", LOUD, OFF, WEB, ("open", "not_served", "not_served")),
]

OPT_OUTS = [
    ("email", LOUD, None, ALL, ("open", "opted_out", "open")),
    ("beats a channel on", QUIET, Choice(True, LOUD), ALL, ("open", "opted_out", "open")),
    ("beats muted", LOUD, OFF, ALL, ("muted", "opted_out", "muted")),
    ("beats a channel off", LOUD, Choice(True, SILENT), ALL, ("preference", "opted_out", "preference")),
    ("beats the type", QUIET, None, ALL, ("open", "opted_out", "type_default")),
    ("beats the fleet", LOUD, None, WEB, ("open", "opted_out", "not_served")),
]

Case = tuple[str, dict[str, bool], Choice | None, frozenset[str], tuple[str, str, str]]


def answer(n: Notification, case: Case, opted_out: Collection[str] = ()) -> tuple[str, ...]:
    _, default, said, served, _ = case
    kind = NotificationType(name="comment", category="social", label="comments", channels=default)
    narrowed = narrow(n, kind, [said] if said else [], served, dict.fromkeys(opted_out, True))
    assert set(narrowed.open).isdisjoint(narrowed.closed)
    return tuple("open" if channel in narrowed.open else narrowed.closed[channel] for channel in CHANNELS)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("importance", ["low", "normal", "high"])
def test_what_is_open_and_why_the_rest_is_not(importance: str, case: Case) -> None:
    n = Notification(UUID(int=7), "c-1", "comment", "ada", importance, CHANNELS, {})
    assert answer(n, case) == case[-1]


@pytest.mark.parametrize("case", OPT_OUTS, ids=[case[0] for case in OPT_OUTS])
@pytest.mark.parametrize("importance", ["low", "normal", "high"])
def test_an_opt_out_closes_its_channel_whatever_else_is_said(importance: str, case: Case) -> None:
    n = Notification(UUID(int=7), "c-1", "comment", "ada", importance, CHANNELS, {})
    assert answer(n, case, {"email"}) == case[-1]


@pytest.mark.parametrize("case", CRITICAL, ids=[case[0] for case in CRITICAL])
def test_a_critical_one_passes_every_opt_out(case: Case) -> None:
    n = Notification(UUID(int=7), "c-1", "comment", "ada", "critical", CHANNELS, {})
    assert answer(n, case, set(CHANNELS)) == case[-1]


@pytest.mark.parametrize("case", CRITICAL, ids=[case[0] for case in CRITICAL])
def test_a_critical_one_follows_its_type_and_nobody_else(case: Case) -> None:
    n = Notification(UUID(int=7), "c-1", "comment", "ada", "critical", CHANNELS, {})
    assert answer(n, case) == case[-1]


@pytest.mark.parametrize("importance", ["normal", "critical"])
@pytest.mark.parametrize("said", [NOTHING, ON, OFF, Choice(True, LOUD)])
def test_a_type_that_is_gone_goes_nowhere(said: Choice, importance: str) -> None:
    n = Notification(UUID(int=7), "c-1", "gone", "ada", importance, CHANNELS, {})
    narrowed = narrow(n, None, [said], ALL)
    assert (narrowed.open, narrowed.closed) == ((), dict.fromkeys(CHANNELS, "unknown_type"))


def test_what_was_closed_before_keeps_its_reason() -> None:
    kind = NotificationType(name="comment", category="social", label="comments", channels=LOUD)
    n = NEW.close({"web": "earlier"})
    for found in (
        narrow(n, kind, [Choice(None, LOUD)], ALL),
        narrow(n, kind, [OFF], ALL),
        narrow(n, None, [], ALL),
    ):
        assert "web" not in found.open
        assert found.closed["web"] == "earlier"
    assert narrow(n, kind, [Choice(None, LOUD)], ALL) is n


def told(kind: NotificationType, importance: str, *said: Choice, out: bool = False) -> tuple[str, str | None]:
    """Of email: open, or why it is closed; and when it is told."""
    n = Notification(UUID(int=7), "c-1", "comment", "ada", importance, CHANNELS, {})
    found = narrow(n, kind, said, ALL, {"email": True} if out else {})
    assert set(found.timing) <= {"email"} & set(found.open)
    return "open" if "email" in found.open else found.closed["email"], found.timing.get("email")


def made(email: bool, rule: str = "now") -> NotificationType:
    timings = {} if rule == "now" else {"email": parse(rule)}
    return NotificationType(
        name="comment", category="social", label="comments", channels=QUIET | {"email": email}, timings=timings
    )


def words(*wishes: Wish | None) -> list[Choice]:
    return [Choice(None, {} if wish is None else {"email": wish}) for wish in wishes]


@pytest.mark.parametrize(("default", "kind", "category", "everything", "expected"), HIERARCHY)
def test_the_nearest_word_counts(
    default: bool, kind: Wish | None, category: Wish | None, everything: Wish | None, expected: str
) -> None:
    said = words(kind, category, everything)
    assert told(made(default), "normal", *said)[0] == expected
    assert told(made(default), "high", *[choice for choice in said if choice != NOTHING])[0] == expected
    assert told(made(default), "normal", *said, out=True) == ("opted_out", None)
    assert told(made(default), "critical", *said, out=True) == (OPEN if default else DEFAULT, None)


@pytest.mark.parametrize(("kind", "category", "everything", "expected"), ENABLED)
def test_the_nearest_word_counts_for_all_of_it(
    kind: bool | None, category: bool | None, everything: bool | None, expected: str
) -> None:
    said = Choice(kind), Choice(category), Choice(everything)
    assert told(made(True), "normal", *said)[0] == expected
    assert told(made(False), "normal", *said)[0] == (DEFAULT if expected == OPEN else MUTED)
    assert told(made(True), "critical", *said)[0] == OPEN


def test_all_of_it_and_one_channel_are_said_apart() -> None:
    """A category that is off stays off, though a type of it wants email; and the other way round."""
    assert told(made(True), "normal", Choice(None, LOUD), OFF) == (MUTED, None)
    assert told(made(True), "normal", ON, Choice(False, SILENT)) == (PREFERENCE, None)


@pytest.mark.parametrize(("rule", "kind", "category", "everything", "expected"), TIMES)
def test_the_nearest_word_says_when(
    rule: str, kind: Wish | None, category: Wish | None, everything: Wish | None, expected: str | None
) -> None:
    said = words(kind, category, everything)
    assert told(made(True, rule), "low", *said) == (OPEN, expected)
    assert told(made(True, rule), "critical", *said) == (OPEN, None), "a critical one does not wait"


def test_what_is_closed_has_no_time() -> None:
    n = Notification(UUID(int=7), "c-1", "comment", "ada", "normal", CHANNELS, {})
    assert narrow(n, made(True, "digest daily"), [OFF], ALL).timing == {}
    assert narrow(n, made(True, "digest daily"), [], WEB).timing == {}
