"""What may wait for a slot: a table, and counting."""

import pytest

from gateway.errors import Overloaded
from gateway.request.estimate import RequestEstimate
from gateway.serving.admission import Admission, Bounds, Load, decide
from stepserve.sequences import Sequences

BOUNDS = Bounds(max_running=4, max_queued_requests=2, max_queued_tokens=1000)


@pytest.mark.parametrize(
    ("load", "asked_tokens", "admitted"),
    [
        (Load(0, 0), 10, True),
        (Load(0, 0), 50_000, True),  # it starts at once: nothing waits
        (Load(3, 5000), 50_000, True),
        (Load(4, 100), 10, True),
        (Load(4, 990), 10, True),
        (Load(4, 991), 10, False),
        (Load(5, 100), 10, True),
        (Load(6, 100), 10, False),
        (Load(60, 100), 10, False),
    ],
)
def test_who_is_let_in(load: Load, asked_tokens: int, admitted: bool) -> None:
    assert (decide(load, RequestEstimate(None, 0, asked_tokens), BOUNDS) is None) is admitted


@pytest.mark.parametrize(
    ("requests", "ended_per_s", "retry_after_s"), [(6, 0.0, 5.0), (6, 0.1, 15.0), (6, 100.0, 1.0), (600, 0.01, 60.0)]
)
def test_when_to_come_again(requests: int, ended_per_s: float, retry_after_s: float) -> None:
    refusal = decide(Load(requests, 0, ended_per_s), RequestEstimate(), BOUNDS)
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(retry_after_s)


class Slot:
    pass


def test_each_slot_is_counted_by_itself_and_down_again() -> None:
    admission, one, other = Admission(Bounds(1, 1, 1000)), Slot(), Slot()
    for _ in range(3):
        for slot in (one, one, other):
            admission.enter(slot, RequestEstimate())
        with pytest.raises(Overloaded) as refused:
            admission.enter(one, RequestEstimate())
        assert (refused.value.retry_after_s or 0) >= 1
        for slot in (one, one, other):
            admission.leave(slot, RequestEstimate())


def test_a_request_counts_as_often_as_it_has_sequences() -> None:
    admission, slot = Admission(Bounds(4, 2, 1_000_000)), Slot()
    many = RequestEstimate(sequences=Sequences(prompts=3, answers=2))
    admission.enter(slot, many)
    with pytest.raises(Overloaded, match="6 sequences are running or waiting"):
        admission.enter(slot, RequestEstimate())
    admission.leave(slot, many)
    for _ in range(6):
        admission.enter(slot, RequestEstimate())
