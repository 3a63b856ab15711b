"""How much one step of an engine computes at most, by who is inside."""

from dataclasses import dataclass

import pytest

from gateway.serving.step_size import BATCH_PROMPT_TOKENS_BESIDE, step_tokens
from stepserve.contract import BATCH_PRIORITY

USUAL, LARGE = 2048, 4096


@dataclass(frozen=True)
class Inside:
    priority: int
    num_prompt_tokens: int = 30
    num_computed_tokens: int = 0

    @property
    def num_tokens_with_spec(self) -> int:
        return self.num_prompt_tokens


def batch(tokens: int = 30) -> Inside:
    return Inside(BATCH_PRIORITY, tokens)


@pytest.mark.parametrize(
    ("inside", "tokens"),
    [
        ([], LARGE),
        ([batch()] * 300, LARGE),
        ([batch(), batch(USUAL)], LARGE),
        ([batch(), batch(USUAL + 1)], USUAL),
        ([Inside(0)], USUAL),
        ([Inside(0, 10_000)] * 3, USUAL),
        ([Inside(0), *[batch()] * 300], 30 + BATCH_PROMPT_TOKENS_BESIDE),
        ([Inside(-1, 700), Inside(0, 100), batch()], 800 + BATCH_PROMPT_TOKENS_BESIDE),
        ([Inside(0, 900, num_computed_tokens=600), batch()], 300 + BATCH_PROMPT_TOKENS_BESIDE),
        ([Inside(0, 30, num_computed_tokens=30), batch(5000)], 1 + BATCH_PROMPT_TOKENS_BESIDE),
        ([Inside(0, 10_000), batch()], USUAL),
        ([Inside(0), *[Inside(BATCH_PRIORITY, 30, 33)] * 700, batch()], 730 + BATCH_PROMPT_TOKENS_BESIDE),
    ],
)
def test_only_batch_work_makes_large_steps_and_none_that_people_wait_for(inside: list[Inside], tokens: int) -> None:
    assert step_tokens(inside, USUAL, LARGE) == tokens


def test_a_small_engine_stays_small() -> None:
    assert step_tokens([Inside(0), batch()], 64, 64) == 64
