"""How long a job rests after an attempt that could not be made: pure arithmetic."""

from datetime import datetime, timedelta

FIRST_REST_S = 5.0
LONGEST_REST_S = 600.0


def rest_s(setbacks: int, jitter: float, first_s: float = FIRST_REST_S) -> float:
    """After `setbacks` attempts in a row that got nowhere (from 1); `jitter` in [0, 1) shortens it by up to a half."""
    whole_s = min(first_s * 2.0 ** (min(setbacks, 32) - 1), LONGEST_REST_S)
    return whole_s * (1 - jitter / 2)


def believable_until(now: datetime) -> datetime:
    """The latest moment a rest that was begun by `now` can end: a later one was written before the clock went back."""
    return now + timedelta(seconds=LONGEST_REST_S)
