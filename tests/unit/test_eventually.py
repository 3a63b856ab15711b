"""How tests wait."""

import pytest

from tests.eventually import eventually, wait_until


async def test_what_is_seen_in_the_end_is_the_answer_of_a_call_or_of_a_coroutine() -> None:
    numbers = iter(range(5000))

    async def look() -> int:
        return next(numbers)

    assert await eventually(lambda: next(numbers), lambda number: number > 2000) == 2001
    assert await eventually(look) == 2002


def test_what_never_comes_is_given_up_at_once_with_the_reason() -> None:
    with pytest.raises(AssertionError, match="it will not be that the sun rises: it has burnt out"):
        wait_until("the sun rises", lambda: False, given_up=lambda: "it has burnt out")
    with pytest.raises(AssertionError, match="not within 0 s: the sun rises"):
        wait_until("the sun rises", lambda: False, 0.0)
