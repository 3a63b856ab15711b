import math

import pytest

from gateway.proof_difference import difference, paused_tokens, shortened


@pytest.mark.parametrize(
    ("found", "expected", "apart"),
    [
        (-1.0, -1.25, 0.25),
        (-30.0, -13.0, 0.0),
        (-30.0, -11.0, 1.0),
        (math.nan, -1.0, math.inf),
        (-1.0, -math.inf, math.inf),
    ],
)
def test_difference(found: float, expected: float, apart: float) -> None:
    assert difference(found, expected) == apart


def test_a_proof_that_clients_wait_for_is_shorter_for_a_larger_model() -> None:
    prompts = [list(range(60)), list(range(20)), list(range(2))]
    assert list(shortened(prompts, None)) == prompts
    assert list(shortened(prompts, paused_tokens(weights_bytes=1_250_000))) == prompts
    kept = [len(prompt) for prompt in shortened(prompts, paused_tokens(weights_bytes=1_000_000_000))]
    assert kept == [29, 9, 2]
    assert all(part == prompt[: len(part)] for part, prompt in zip(shortened(prompts, 30), prompts, strict=True))
