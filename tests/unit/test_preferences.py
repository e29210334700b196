"""What the type's default, the user's own row and the fleet leave open; and why the rest is closed."""

from collections.abc import Collection
from uuid import UUID

import pytest

from pipelines.catalog import NotificationType
from pipelines.preferences import Row, narrow
from schema.notification import CHANNELS, Notification

NEW = Notification(UUID(int=7), "c-1", "comment", "ada", "normal", CHANNELS, {}, "post-9")
ALL = frozenset(CHANNELS)
WEB = frozenset({"web"})

QUIET = {"web": True, "email": False, "push": False}
LOUD = {"web": True, "email": True, "push": True}
SILENT = {"web": False, "email": False, "push": False}

ON: Row = (True, {})
OFF: Row = (False, {})

# Each channel's answer in the order web, email, push: "open", or why it is closed.
CASES = [
    # the type's default      the user's own row               served  web             email           push
    ("quiet, nobody said", QUIET, None, ALL, ("open", "type_default", "type_default")),
    ("loud, nobody said", LOUD, None, ALL, ("open", "open", "open")),
    ("silent, nobody said", SILENT, None, ALL, ("type_default", "type_default", "type_default")),
    ("a row that says nothing", QUIET, ON, ALL, ("open", "type_default", "type_default")),
    ("the type is off", LOUD, OFF, ALL, ("muted", "muted", "muted")),
    ("off beats a channel on", LOUD, (False, LOUD), ALL, ("muted", "muted", "muted")),
    ("one off", LOUD, (True, {"email": False}), ALL, ("open", "preference", "open")),
    ("one on", QUIET, (True, {"email": True}), ALL, ("open", "open", "type_default")),
    ("off, and off by default", QUIET, (True, {"email": False}), ALL, ("open", "preference", "type_default")),
    ("all on against silence", SILENT, (True, LOUD), ALL, ("open", "open", "open")),
    ("all off", LOUD, (True, SILENT), ALL, ("preference", "preference", "preference")),
    ("a channel nobody has", QUIET, (True, {"pigeon": True}), ALL, ("open", "type_default", "type_default")),
    ("loud, only web runs", LOUD, None, WEB, ("open", "not_served", "not_served")),
    ("one on, only web runs", QUIET, (True, {"push": True}), WEB, ("open", "type_default", "not_served")),
    ("not wanted, not served", LOUD, (True, {"push": False}), WEB, ("open", "not_served", "preference")),
    ("nothing runs", QUIET, None, frozenset(), ("not_served", "type_default", "type_default")),
]
CRITICAL = [
    ("the type is off", QUIET, OFF, ALL, ("open", "type_default", "type_default")),
    ("all off", LOUD, (True, SILENT), ALL, ("open", "open", "open")),
    ("one on", QUIET, (True, {"email": True}), ALL, ("open", "type_default", "type_default")),
    ("the default holds", SILENT, OFF, ALL, ("type_default", "type_default", "type_default")),
    ("only web runs", LOUD, OFF, WEB, ("open", "not_served", "not_served")),
]

OPT_OUTS = [
    ("email", LOUD, None, ALL, ("open", "opted_out", "open")),
    ("beats a channel on", QUIET, (True, LOUD), ALL, ("open", "opted_out", "open")),
    ("beats muted", LOUD, OFF, ALL, ("muted", "opted_out", "muted")),
    ("beats a channel off", LOUD, (True, SILENT), ALL, ("preference", "opted_out", "preference")),
    ("beats the type", QUIET, None, ALL, ("open", "opted_out", "type_default")),
    ("beats the fleet", LOUD, None, WEB, ("open", "opted_out", "not_served")),
]

Case = tuple[str, dict[str, bool], Row | None, frozenset[str], tuple[str, str, str]]


def answer(n: Notification, case: Case, opted_out: Collection[str] = ()) -> tuple[str, ...]:
    _, default, row, served, _ = case
    kind = NotificationType(name="comment", category="social", label="comments", channels=default)
    narrowed = narrow(n, kind, row, served, opted_out)
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
@pytest.mark.parametrize("row", [None, ON, OFF, (True, LOUD)])
def test_a_type_that_is_gone_goes_nowhere(row: Row | None, importance: str) -> None:
    n = Notification(UUID(int=7), "c-1", "gone", "ada", importance, CHANNELS, {})
    narrowed = narrow(n, None, row, ALL)
    assert (narrowed.open, narrowed.closed) == ((), dict.fromkeys(CHANNELS, "unknown_type"))


def test_what_was_closed_before_keeps_its_reason() -> None:
    kind = NotificationType(name="comment", category="social", label="comments", channels=LOUD)
    n = NEW.close({"web": "earlier"})
    for found in (narrow(n, kind, (True, LOUD), ALL), narrow(n, kind, OFF, ALL), narrow(n, None, None, ALL)):
        assert "web" not in found.open
        assert found.closed["web"] == "earlier"
    assert narrow(n, kind, (True, LOUD), ALL) is n
