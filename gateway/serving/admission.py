"""How much may wait for a slot: a bound in sequences and one in tokens, decided before any work is done.

A request is as many sequences as it has prompts, times the answers to each.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from gateway.errors import Overloaded
from gateway.request.estimate import RequestEstimate

_RATE_OVER = 64
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """`max_running` sequences are worked on at once; `max_queued_*` may wait beyond them."""

    max_running: int
    max_queued_requests: int
    max_queued_tokens: int


@dataclass(frozen=True, slots=True)
class Load:
    """What is inside a slot, by estimate: sequences, their tokens, and how many ended a second of late."""

    sequences: int = 0
    tokens: int = 0
    ended_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: str
    retry_after_s: float


def decide(load: Load, asked: RequestEstimate, bounds: Bounds) -> Refusal | None:
    """Whether one more may come in. Tokens bind only who would wait: a request that can start at once may."""
    queued = max(0, load.sequences - bounds.max_running + 1)
    if queued > bounds.max_queued_requests:
        return Refusal(f"{load.sequences} sequences are running or waiting already.", _wait_s(load, queued))
    if queued and load.tokens + asked.tokens > bounds.max_queued_tokens:
        return Refusal(f"Requests for about {load.tokens} tokens are running or waiting.", _wait_s(load, queued))
    return None


def _wait_s(load: Load, queued: int) -> float:
    """Until about half of the queue is gone."""
    if load.ended_per_s <= 0:
        return 5.0
    return min(_LONGEST_WAIT_S, max(1.0, queued / 2 / load.ended_per_s))


@dataclass(slots=True)
class _Inside:
    sequences: int = 0
    tokens: int = 0
    ends_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_OVER))


class Admission:
    """Counts what is inside each slot; batch work is bounded by its own window and never takes interactive room."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds
        self._clock = clock
        self._slots: WeakKeyDictionary[object, _Inside] = WeakKeyDictionary()

    @classmethod
    def unbounded(cls) -> "Admission":
        return cls(Bounds(sys.maxsize, sys.maxsize, sys.maxsize))

    def enter(self, slot: object, asked: RequestEstimate) -> None:
        """Counts the request in; `leave` must follow. Raises Overloaded, and then it must not."""
        inside = self._slots.get(slot)
        if inside is None:
            inside = self._slots[slot] = _Inside()
        refusal = decide(self._load(inside), asked, self._bounds)
        if refusal is not None:
            raise Overloaded(f"The server is busy: {refusal.reason}", refusal.retry_after_s)
        inside.sequences += asked.sequences.total
        inside.tokens += asked.tokens

    def leave(self, slot: object, asked: RequestEstimate) -> None:
        inside = self._slots[slot]
        inside.sequences -= asked.sequences.total
        inside.tokens -= asked.tokens
        inside.ends_s.extend([self._clock()] * min(asked.sequences.total, _RATE_OVER))

    def _load(self, inside: _Inside) -> Load:
        if inside.sequences < self._bounds.max_running:
            return Load(inside.sequences, inside.tokens)  # nobody would wait, so nobody asks how long
        ends = inside.ends_s
        since_s = self._clock() - ends[0] if ends else 0.0
        return Load(inside.sequences, inside.tokens, len(ends) / since_s if since_s > 0 else 0.0)
