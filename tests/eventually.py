"""Waiting for what becomes true: never for a time, and with a limit that only a failing test reaches."""

import time
from collections.abc import Callable

GUARD_S = 240.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.5


def eventually(condition: Callable[[], bool], timeout_s: float = GUARD_S) -> None:
    """Raises AssertionError when `condition` is still false after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while not condition():
        assert time.monotonic() < deadline, f"not true after {timeout_s:.0f} s"
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
