"""Several limits at once, on a real Valkey: a type's, its user's overall, a channel's. What closes, what is
folded, and what is charged."""

from dataclasses import replace
from typing import Any, NamedTuple, cast
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from pipelines.limits import Window
from pipelines.rate_limits import rate_limits
from pipelines.stage import Resources
from schema.identity import text
from schema.notification import CHANNELS, Notification
from tests.integration.chain import at_once
from tests.integration.limited import Load, charged, closed, new, numbers

MINUTE = 60_000_000
"""In microseconds, as the scores are."""
NOBODY: dict[str, str] = {}
EVERYTHING = dict.fromkeys(CHANNELS, "rate_limit")
EMAIL = {"email": "rate_limit"}
FOLDED = {"email": "rate_limit", "push": "rate_limit"}
TWO = '[rate_limit]\nmax = 2\nper = "1h"\n'
ONE_EMAIL = 'channels.email = {max = 1, per = "1h"}\n'
THREE = '[user]\nmax = 3\nper = "1d"\n'
C, L = "comment", "like"


@pytest.mark.parametrize(
    ("limits", "sent", "expected", "counts"),
    [
        pytest.param(
            {C: TWO, L: TWO},
            [C, C, C, L],
            [NOBODY, NOBODY, EVERYTHING, NOBODY],
            {"comment:ada": 2, "like:ada": 1},
            id="each type has its own",
        ),
        pytest.param(
            {"user": THREE},
            [C, L, C, L],
            [NOBODY, NOBODY, NOBODY, EVERYTHING],
            {":ada": 3},
            id="overall counts all types",
        ),
        pytest.param(
            {C: TWO, "user": THREE},
            [C, C, C, L, L],
            [NOBODY, NOBODY, EVERYTHING, NOBODY, EVERYTHING],
            {"comment:ada": 2, ":ada": 3},
            id="over the type's is not charged overall",
        ),
        pytest.param(
            {C: TWO, "user": '[user]\nmax = 1\nper = "1h"\n'},
            [L, C, C, C],
            [NOBODY, EVERYTHING, EVERYTHING, EVERYTHING],
            {":ada": 1},
            id="over the user's is not charged to the type",
        ),
        pytest.param(
            {C: TWO + ONE_EMAIL},
            [C, C, C],
            [NOBODY, EMAIL, EVERYTHING],
            {"comment:ada": 2, "comment/email:ada": 1},
            id="over a channel's only that channel closes",
        ),
        pytest.param(
            {C: f"[rate_limit]\n{ONE_EMAIL}"},
            [C, C, C, L],
            [NOBODY, EMAIL, EMAIL, NOBODY],
            {"comment/email:ada": 1},
            id="a channel's limit of a type, and none else",
        ),
        pytest.param(
            {"user": f"[user]\n{ONE_EMAIL}"},
            [C, L, L],
            [NOBODY, EMAIL, EMAIL],
            {"/email:ada": 1},
            id="a channel's limit of all types, and none else",
        ),
        pytest.param(
            {C: TWO + 'channels.push = {max = 1, per = "1h"}\n', "user": f"[user]\n{ONE_EMAIL}"},
            [L, C, C],
            [NOBODY, EMAIL, FOLDED],
            {"/email:ada": 1, "comment/push:ada": 1, "comment:ada": 2},
            id="channels are counted apart",
        ),
        pytest.param(
            {C: TWO + 'channels.email = {max = 5, per = "1h"}\n', "user": f"[user]\n{ONE_EMAIL}"},
            [C, C],
            [NOBODY, EMAIL],
            {"/email:ada": 1, "comment/email:ada": 1, "comment:ada": 2},
            id="a channel's two windows are charged both or none",
        ),
        pytest.param(
            {C: f'{TWO}overflow = "fold"\n'},
            [C, C, C, C],
            [NOBODY, NOBODY, FOLDED, FOLDED],
            {"comment:ada": 2},
            id="over its limit, and folded",
        ),
        pytest.param(
            {C: f'{TWO}overflow = "fold"\n', L: TWO, "user": '[user]\nmax = 1\nper = "1h"\n'},
            [L, C, L],
            [NOBODY, FOLDED, EVERYTHING],
            {"like:ada": 1, ":ada": 1},
            id="over the user's, the type says what becomes of it",
        ),
    ],
)
def test_who_is_told_and_what_is_charged(
    limits: dict[str, str],
    sent: list[str],
    expected: list[dict[str, str]],
    counts: dict[str, int],
    limited: Load,
    client: Redis,
) -> None:
    use = limited(**limits)
    batch = [new(type) for type in sent]
    assert closed(batch, use) == expected
    assert charged(client) == counts
    assert closed(batch, use) == expected, "again"
    assert closed(batch[::-1], use) == expected[::-1], "again, in another order"
    assert charged(client) == counts


def test_what_is_folded_says_so_and_keeps_its_place_in_the_inbox(limited: Load) -> None:
    use = limited(comment=f'{TWO}overflow = "fold"\n')
    first, second, over = rate_limits([new() for _ in range(3)], use)
    assert [first.folded, second.folded, over.folded] == [False, False, True]
    assert over.open == ("web",)


def test_what_does_not_show_in_the_inbox_is_not_folded(limited: Load) -> None:
    use = limited(comment=f'{TWO}overflow = "fold"\n')
    batch = [new().close({"web": "preference"}) for _ in range(3)]
    over = rate_limits(batch, use)[2]
    assert (over.open, over.folded) == ((), False)
    assert over.closed == FOLDED | {"web": "preference"}


def test_a_closed_channel_is_not_charged(limited: Load, client: Redis) -> None:
    use = limited(user=f"[user]\n{ONE_EMAIL}")
    assert closed([new().close({"email": "opted_out"})], use) == [{"email": "opted_out"}]
    assert charged(client) == {}
    assert closed([new(), new()], use) == [NOBODY, EMAIL]


@pytest.mark.parametrize(
    ("rule", "counts"), [("digest daily", {}), ("digest 1h", {}), ("if unread after 15m", {"/email:ada": 1})]
)
def test_a_digest_does_not_count_against_the_limit_of_its_channel(
    rule: str, counts: dict[str, int], limited: Load, client: Redis
) -> None:
    use = limited(user=f"[user]\n{ONE_EMAIL}")
    assert closed([new(email=rule)], use) == [NOBODY]
    assert charged(client) == counts


def test_critical_passes_every_limit_at_no_charge(limited: Load, client: Redis) -> None:
    use = limited(comment=TWO + ONE_EMAIL, user=THREE)
    assert closed([new(importance="critical") for _ in range(9)], use) == [NOBODY] * 9
    assert charged(client) == {}


def test_users_do_not_share(limited: Load) -> None:
    use = limited(user='[user]\nmax = 1\nper = "1h"\n')
    assert closed([new(user="ada"), new(user="bob"), new(user="ada")], use) == [NOBODY, NOBODY, EVERYTHING]


def test_what_passed_passes_also_a_limit_that_is_new(limited: Load, client: Redis) -> None:
    """Only some windows were charged: the type's, before there was one overall, which others filled meanwhile."""
    early = new()
    assert closed([early], limited(comment=TWO)) == [NOBODY]
    use = limited(comment=TWO, user='[user]\nmax = 1\nper = "1h"\n')
    assert closed([new("like"), new("like")], use) == [NOBODY, EVERYTHING]
    before = charged(client)
    assert closed([early], use) == [NOBODY]
    assert charged(client) == before
    assert closed([new()], use) == [EVERYTHING]


def test_what_left_the_shorter_window_is_charged_nowhere_again(limited: Load, client: Redis) -> None:
    use = limited(comment='[rate_limit]\nmax = 1\nper = "1m"\n', user=THREE)
    early = new()
    assert closed([early], use) == [NOBODY]
    client.zincrby("tocsin:limit:comment:ada", -MINUTE, text(early.id))
    assert closed([new(), early], use) == [NOBODY, NOBODY]
    assert charged(client) == {"comment:ada": 1, ":ada": 2}


def test_of_many_at_once_exactly_as_many_pass_as_each_window_has_room_for(limited: Load, client: Redis) -> None:
    """Five mails, twelve comments, twenty of both types: threads that speak at the same moment, and twice."""
    limit = '[rate_limit]\nmax = 12\nper = "1h"\nchannels.email = {max = 5, per = "1h"}\n'
    use = limited(comment=limit, user='[user]\nmax = 20\nper = "1h"\n')
    batches = [[new(), new("like")] for _ in range(25)]
    answers = at_once(16, lambda number: [closed(batch, use) for batch in batches[number % 8 :: 8]])
    once = [comment for answer in answers[:8] for comment, _ in answer]
    assert answers[8:] == answers[:8]
    assert sum(found != EVERYTHING for answer in answers[:8] for pair in answer for found in pair) == 20
    assert sum("email" not in found for found in once) == 5
    assert charged(client)[":ada"] == 20
    assert charged(client)["comment:ada"] == sum(found != EVERYTHING for found in once) <= 12


def test_several_windows_are_one_command(limited: Load, client: Redis) -> None:
    use = limited(comment=TWO + ONE_EMAIL, like=TWO, user=THREE + ONE_EMAIL)
    rate_limits([new()], use)
    client.config_resetstat()
    rate_limits([new(type, f"u-{number}") for number in range(250) for type in ("comment", "like")], use)
    stats = cast("dict[str, dict[str, int]]", client.info("commandstats"))
    assert stats["cmdstat_evalsha"]["calls"] == 1


class Ledger(NamedTuple):
    """The model: what each window was charged with, and when."""

    windows: dict[Window, dict[UUID, int]]

    def room(self, window: Window, now: int) -> bool:
        held = self.windows.setdefault(window, {})
        if len(held) >= window.max:
            for id_ in [id_ for id_, at in held.items() if at <= now - window.per]:
                del held[id_]
        return len(held) < window.max

    def opens(self, gate: list[Window], id_: UUID, now: int) -> bool:
        full = False
        for window in gate:
            full = full or not self.room(window, now)
        if any(id_ in self.windows.setdefault(window, {}) for window in gate):
            return True
        if not full:
            for window in gate:
                self.windows[window][id_] = now
                assert sum(at > now - window.per for at in self.windows[window].values()) <= window.max
        return not full

    def closed(self, gates: dict[str, list[Window]], n: Notification, now: int) -> dict[str, str]:
        if not self.opens(gates.get("", []), n.id, now):
            return EVERYTHING
        return {c: "rate_limit" for c in CHANNELS if c in gates and not self.opens(gates[c], n.id, now)}


MODEL = {
    "comment": '[rate_limit]\nmax = 3\nper = "60m"\nchannels.email = {max = 2, per = "30m"}\n',
    "like": '[rate_limit]\nmax = 2\nper = "10m"\nchannels.push = {max = 1, per = "2h"}\n',
    "user": '[user]\nmax = 4\nper = "90m"\nchannels.email = {max = 2, per = "1h"}\n',
}
sends = st.lists(st.sampled_from(["comment", "like"]), min_size=1, max_size=4)
repeats = st.lists(st.integers(0, 30), min_size=1, max_size=4)
minutes = st.sampled_from([5, 10, 20, 30, 60, 100])
steps = st.one_of(sends, repeats, minutes)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=1, max_size=12))
def test_it_does_what_a_model_of_sliding_windows_does(modelled: Resources, history: list[Any]) -> None:
    """New ones, repeats of any that were (also within a batch), and time that passes, in any order."""
    use, user = modelled, f"u-{next(numbers)}"
    ledger, now, known = Ledger({}), 0, list[Notification]()
    for step in history:
        if isinstance(step, int):
            now += step * MINUTE
            pass_time(use.redis, user, step * MINUTE)
            continue
        if isinstance(step[0], str):
            batch = [new(type, user) for type in step]
            known += batch
            looked = closed(batch, replace(use, dry=True))
        else:
            batch = [known[place % len(known)] for place in step if known]
            looked = None
        expected = [ledger.closed(use.catalog.gates[n.type], n, now) for n in batch]
        assert looked in (None, expected), "a dry run says the same"
        assert closed(batch, use) == expected
        for window, held in ledger.windows.items():
            kept = cast("list[bytes]", use.redis.zrange(window.key(user), 0, -1))
            assert {id_.decode() for id_ in kept} == set(map(text, held))


@pytest.fixture
def modelled(limited: Load) -> Resources:
    return limited(**MODEL)


def pass_time(client: Redis, user: str, microseconds: int) -> None:
    """As if everything had been charged so much earlier."""
    for key in cast("list[bytes]", client.keys(f"tocsin:limit:*:{user}")):
        for id_ in cast("list[bytes]", client.zrange(key, 0, -1)):
            client.zincrby(key, -microseconds, id_)
