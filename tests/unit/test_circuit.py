"""When a provider is asked, and how much, as its answers and time go by."""

import threading
from typing import Any

import pytest

from schema.delivery import Away, Gone, Later, Never, Outcome, Sent, Unknown
from workers.circuit import LONGEST, PROBED, RAMP_SECONDS, SHORTEST, Circuit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit("email", clock)


def opened(circuit: Circuit, wait: float = 0) -> float:
    """Seconds that it stays open."""
    circuit.hear([Away("refused", wait=wait)])
    return circuit.wait()


def test_one_that_answers_takes_everything(circuit: Circuit) -> None:
    for outcome in (Sent(), Never("no"), Gone("nobody")):
        assert circuit.room(500) == 500
        circuit.hear([outcome, Later("busy")])
    assert circuit.room(500) == 500


def test_away_opens_it_at_once_and_a_single_probe_goes_after_the_pause(circuit: Circuit, clock: Clock) -> None:
    seconds = opened(circuit)
    assert SHORTEST * 0.8 <= seconds <= SHORTEST * 1.2
    assert circuit.room(500) == 0
    clock.passes(seconds)
    assert [circuit.room(500), circuit.room(500)] == [1, 0]


def test_pauses_double_up_to_the_longest_and_begin_anew_after_an_answer(circuit: Circuit, clock: Clock) -> None:
    pauses = []
    for _ in range(7):
        pauses.append(opened(circuit))
        clock.passes(pauses[-1])
        assert circuit.room(500) == 1
    for number, pause in enumerate(pauses):
        assert 0.8 <= pause / min(LONGEST, SHORTEST * 2**number) <= 1.2
    circuit.hear([Sent()])
    assert opened(circuit) <= SHORTEST * 1.2


def test_a_provider_that_names_a_time_is_given_it(circuit: Circuit) -> None:
    assert opened(circuit, wait=300) == 300


@pytest.mark.parametrize("mute", [Later("busy", answered=False), Unknown("lost")])
def test_three_batches_without_an_answer_open_it(circuit: Circuit, mute: Outcome) -> None:
    circuit.hear([mute] * 9)
    circuit.hear([mute] * 9)
    assert circuit.room(500) == 500
    circuit.hear([mute])
    assert circuit.room(500) == 0


def test_an_empty_batch_says_nothing(circuit: Circuit) -> None:
    for _ in range(9):
        circuit.hear([])
    assert circuit.room(500) == 500


def test_what_was_begun_before_it_opened_makes_no_pause_longer(circuit: Circuit) -> None:
    before: Any = opened(circuit)
    circuit.hear([Away("refused")])
    assert circuit.wait() == before


def test_after_a_probe_that_was_answered_it_takes_more_and_more(circuit: Circuit, clock: Clock) -> None:
    clock.passes(opened(circuit))
    assert circuit.room(500) == 1
    circuit.hear([Sent()])
    taken = []
    for _ in range(int(RAMP_SECONDS)):
        taken.append(circuit.room(500))
        circuit.hear([Sent()] * taken[-1])
        clock.passes(1.001)  # not 1, which sums of floats miss
    assert taken[0] == 10
    assert taken == sorted(taken)
    assert taken[20] < 500
    assert circuit.room(500) == 500


def test_a_probe_that_fails_opens_it_again(circuit: Circuit, clock: Clock) -> None:
    clock.passes(opened(circuit))
    assert circuit.room(500) == 1
    circuit.hear([Unknown("lost")])
    assert circuit.room(500) == 0


def test_what_nobody_wants_any_more_is_no_probe(circuit: Circuit, clock: Clock) -> None:
    clock.passes(opened(circuit))
    assert circuit.room(500) == 1
    circuit.hear([], unused=1)
    assert circuit.room(500) == 1, "the next one is asked at once"
    circuit.hear([Sent()])
    first = circuit.room(500)
    assert first > 0
    assert circuit.room(500) == 0
    circuit.hear([], unused=first)
    assert circuit.room(500) == first, "nor does it use up the ramp"


def test_one_that_answers_about_each_is_there(circuit: Circuit, clock: Clock) -> None:
    """Three lonely mails that are greylisted say nothing of the server, and such a probe closes it."""
    for _ in range(9):
        circuit.hear([Later("greylisted")])
    assert circuit.room(500) == 500
    clock.passes(opened(circuit))
    assert circuit.room(500) == 1
    circuit.hear([Later("greylisted")])
    assert circuit.room(500) > 1


def test_only_the_probe_closes_it(circuit: Circuit, clock: Clock) -> None:
    """What another thread began before it opened may still be answered."""
    assert opened(circuit, wait=300) == 300
    clock.passes(1)
    straggler = threading.Thread(target=circuit.hear, args=([Sent()],))
    straggler.start()
    straggler.join()
    assert circuit.room(500) == 0
    clock.passes(299)
    assert circuit.room(500) == 1
    straggler = threading.Thread(target=circuit.hear, args=([Sent()],))
    straggler.start()
    straggler.join()
    assert circuit.room(500) == 0, "the probe is out"
    assert circuit.wait() == PROBED, "it may end at any moment, also without an answer: nobody wants what it had"
    circuit.hear([Sent()])
    assert circuit.room(500) > 1
