"""Which model is loaded next, and which one leaves for it and when: a pure decision that saves loads within a bound.

A model that is loaded goes on answering while others wait, so that requests A B A A C become A A A B C. It takes no
more requests once one that waits might otherwise wait for its turn longer than the bound. Models take turns by their
oldest request. With a bound of 0 that is first come, first served.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

W = TypeVar("W")
S = TypeVar("S")

_GAPS = 2.0  # for so many of its usual gaps the next request for an idle model is still expected
_AT_LEAST = 0.5  # of the bound, however long loads and answers take: else slow models would be loaded at every change


@dataclass(frozen=True, slots=True)
class Waiting(Generic[W]):
    """A model that requests wait for. `since_s`: when the oldest of them came. `load_s`: how long its load may take.

    `patient`: they would wait for a model that answers others; a job would not, and comes after all who do.
    """

    load: W
    since_s: float
    load_s: float = 0.0
    patient: bool = True


@dataclass(frozen=True, slots=True)
class Resident(Generic[S]):
    """A model that is loaded and could leave. `idle_since_s`: when the last request left. `load_s`: what its load took.

    `gap_s` and `answer_s` are those of `Use`. `closed`: it takes no more requests. `stays`: it must not leave now.
    """

    slot: S
    in_flight: int = 0
    idle_since_s: float = 0.0
    gap_s: float | None = None
    answer_s: float = 0.0
    load_s: float = 0.0
    closed: bool = False
    stays: bool = False

    def expects_another(self, now_s: float) -> bool:
        """Whether its next request is likely to come sooner than it could be loaded again."""
        if self.gap_s is None or _GAPS * self.gap_s > self.load_s:
            return False
        return now_s - self.idle_since_s < _GAPS * self.gap_s


@dataclass(frozen=True, slots=True)
class Load(Generic[W]):
    """That model fits: it is loaded now."""

    load: W


@dataclass(frozen=True, slots=True)
class Evict(Generic[S]):
    """That slot, which is idle, leaves; then the question is asked again."""

    slot: S


@dataclass(frozen=True, slots=True)
class Close(Generic[S]):
    """That slot takes no more requests and leaves when those inside have ended, unless nobody waits any more then."""

    slot: S


def next_turn(
    waiting: Sequence[Waiting[W]],
    residents: Sequence[Resident[S]],
    fits: Callable[[W], bool],
    turn_wait_s: float,
    now_s: float,
) -> Load[W] | Evict[S] | Close[S] | None:
    """None: whoever waits goes on waiting, until a slot is idle or `turn_wait_s` is over."""
    if not waiting:
        return None
    queue = in_order(waiting)
    head = queue[0]
    if fits(head.load):
        return Load(head.load)
    leavable = [resident for resident in residents if not resident.stays]
    is_due = head.patient and now_s >= _close_at_s(queue, leavable, turn_wait_s)
    idle = [each for each in leavable if not each.in_flight and (is_due or not each.expects_another(now_s))]
    if idle:
        return Evict(min(idle, key=lambda each: (not each.closed, each.idle_since_s)).slot)
    if not is_due or not leavable:
        return None
    return Close(_first_to_close(leavable).slot)


def in_order(waiting: Sequence[Waiting[W]]) -> list[Waiting[W]]:
    """As they take turns: by their oldest request, those that are not patient last."""
    return sorted(waiting, key=lambda each: (not each.patient, each.since_s))


def as_they_leave(residents: Sequence[Resident[S]], now_s: float) -> list[Resident[S]]:
    """Those first whose end costs least, as `next_turn` chooses."""
    return sorted(
        residents,
        key=lambda each: (
            each.in_flight > 0, each.expects_another(now_s), not each.closed, each.in_flight, each.idle_since_s,
        ),
    )  # fmt: skip


def _close_at_s(queue: Sequence[Waiting[W]], leavable: Sequence[Resident[S]], turn_wait_s: float) -> float:
    """When a slot has to take no more requests, so that no load begins later than `turn_wait_s` after the oldest
    request for it: each waits for those inside the slot, and for the turns before its own.
    """
    ahead_s = _first_to_close(leavable).answer_s if leavable else 0.0
    answer_s, close_at_s = ahead_s, float("inf")
    for each in queue:
        if each.patient:
            close_at_s = min(close_at_s, each.since_s + turn_wait_s - ahead_s)
            ahead_s += each.load_s + answer_s
    return max(close_at_s, queue[0].since_s + _AT_LEAST * turn_wait_s)


def _first_to_close(leavable: Sequence[Resident[S]]) -> Resident[S]:
    """What is closed already, else the one that fewest requests are inside of, which is empty first."""
    return min(leavable, key=lambda each: (not each.closed, each.in_flight, each.idle_since_s))
