"""What a file of events is cut into fits what the API takes, in order and whole."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from schema.event import MAX_BODY_BYTES, MAX_EVENT_BYTES, MAX_EVENTS
from workers.sending import cut

SIZES = st.sampled_from([1, 200, 16_776, MAX_EVENT_BYTES]) | st.integers(1, MAX_EVENT_BYTES)


@given(st.lists(st.tuples(SIZES, st.integers(1, 600)), max_size=4))
def test_every_call_fits_and_none_is_smaller_than_it_must_be(runs):
    lines = [line for size, times in runs for line in [b"x" * size] * times]
    calls = cut(lines)
    assert [line for call in calls for line in call] == lines
    for call in calls:
        assert 1 <= len(call) <= MAX_EVENTS
        assert size_of(call) <= MAX_BODY_BYTES
    for call, following in pairwise(calls):
        assert len(call) == MAX_EVENTS or size_of([*call, following[0]]) > MAX_BODY_BYTES


def size_of(call):
    """Of the body that is posted."""
    return len(b"[" + b",".join(call) + b"]")
