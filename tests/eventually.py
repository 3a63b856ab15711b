"""Waiting for what nobody announces: until it is so, and for minutes only in a test that fails."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

DEADLINE_S = 240.0
"""Of a machine that is busy: a test that fails waits so long, no other."""
_TURNS = 1000
_SHORTEST_PAUSE_S = 0.001
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.1


async def eventually(look: Callable[[], Any], enough: Callable[[Any], Any] = bool) -> Any:
    """What `look` sees once it is `enough`, or true where nothing else is asked. Fails showing what it saw last.

    A look that is awaited may cost a server milliseconds, and comes less and less often. One that is not costs nothing:
    it comes at every turn of the event loop, so that it misses no state that another task passes through.
    """
    seen: Any = None
    turns, pause_s = 0, _FIRST_PAUSE_S
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                found = look()
                is_awaited = inspect.isawaitable(found)
                seen = await found if is_awaited else found
                if enough(seen):
                    return seen
                turns += 1
                if is_awaited:
                    await asyncio.sleep(pause_s)
                    pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
                else:
                    await asyncio.sleep(0 if turns < _TURNS else _SHORTEST_PAUSE_S)
    except TimeoutError:
        raise AssertionError(f"still {seen}") from None


def wait_until(
    what: str,
    happened: Callable[[], bool],
    timeout_s: float = DEADLINE_S,
    *,
    given_up: Callable[[], str | None] = lambda: None,
) -> float:
    """Blocks until `happened` is true; the seconds it took. Fails after `timeout_s`, or at once with what `given_up`
    says when it never will be.
    """
    started_s = time.monotonic()
    while not happened():
        reason = given_up()
        if reason is not None and not happened():
            raise AssertionError(f"it will not be that {what}: {reason}")
        assert time.monotonic() - started_s < timeout_s, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(_LONGEST_PAUSE_S)
    return time.monotonic() - started_s
