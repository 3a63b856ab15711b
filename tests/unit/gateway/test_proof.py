import math

import pytest

from gateway.serving.proof_difference import (
    FEWEST_COMPARED,
    chosen_prompts,
    judge,
    judge_weakly,
    paused_tokens,
    without_stale_cache,
)
from stepserve.difference import compare

LIKELY = [-1.0] * FEWEST_COMPARED


@pytest.mark.parametrize(
    ("found", "expected", "tokens", "mean"),
    [
        (-1.0, -1.25, 1, 0.25),
        (-30.0, -13.0, 0, 0.0),  # neither finds it possible: nothing is compared
        (-30.0, -11.0, 1, 1.0),
        (math.nan, -1.0, 0, math.inf),
        (-1.0, -math.inf, 0, math.inf),
    ],
)
def test_what_is_compared(found: float, expected: float, tokens: int, mean: float) -> None:
    apart = compare([[found]], [[expected]])
    assert (apart.tokens, apart.mean) == (tokens, mean)


def test_tokens_that_say_nothing_do_not_dilute_a_difference() -> None:
    silent = [-20.0] * 1000
    proof = judge("computed", [[-2.0] * 16 + silent], [LIKELY + silent], 0.25)
    assert not proof.passed
    assert (proof.tokens, proof.mean_abs_diff) == (16, 1.0)
    assert proof.reason == (
        "the log-probabilities of 16 tokens are 1.000 nats from the reference's on average, and 0.4375 are allowed"
    )


def test_a_proof_that_compares_too_little_is_weak_and_says_so() -> None:
    proof = judge("reference", [[-30.0] * 100 + [-1.0]], [[-40.0] * 100 + [-1.0]], 0.1)
    assert (proof.kind, proof.passed, proof.tokens) == ("weak", True, 1)
    assert proof.why == ("only 1 of the reference's 101 tokens are likely enough to be compared, and 16 are needed")
    assert judge("reference", [LIKELY], [LIKELY], 0.1).kind == "reference"


def test_what_is_not_finite_is_said() -> None:
    proof = judge("computed", [[math.nan, -1.0]], [[-1.0, -1.0]], 0.1)
    assert (proof.passed, proof.mean_abs_diff) == (False, None)
    assert proof.reason == "a log-probability is not a finite number"
    assert judge_weakly([[-1.0, -math.inf]]).reason == "a log-probability is not a finite number"


def test_a_weak_proof_says_why_it_is_weak_and_what_it_found() -> None:
    good, constant = judge_weakly([[-1.0, -2.0], [-3.0]]), judge_weakly([[-5.0, -5.0], [-5.0]])
    assert good.passed
    assert good.why is not None
    assert "no reference" in good.why
    assert not constant.passed
    assert constant.reason == "the model finds all 3 tokens of 2 prompts equally likely"


def test_a_proof_that_clients_wait_for_is_shorter_for_a_larger_model() -> None:
    """Whole prompts, the shortest first: what a model would say itself stands at a prompt's end."""
    rows = [[-1.0] * 59, [-1.0] * 19, [-1.0] * 30]
    assert chosen_prompts(rows, None) == [1, 2, 0]
    assert chosen_prompts(rows, paused_tokens(weights_bytes=1_250_000)) == [1, 2, 0]
    assert chosen_prompts(rows, paused_tokens(weights_bytes=400_000_000)) == [1, 2]
    assert chosen_prompts(rows, paused_tokens(weights_bytes=10_000_000_000)) == [1]


def test_a_short_proof_compares_enough_all_the_same() -> None:
    silent = [[-20.0] * 40, [-20.0] * 30 + [-1.0] * 20]
    assert chosen_prompts(silent, max_tokens=40) == [0, 1]


def test_answers_from_the_cache_of_earlier_weights_refuse_a_proof_that_would_pass() -> None:
    proof = judge("computed", [LIKELY], [LIKELY], 0.1)
    assert without_stale_cache(proof, 0) == proof
    stale = without_stale_cache(proof, 16)
    assert not stale.passed
    assert stale.reason == "16 tokens of a prompt were answered from the KV cache of the weights before"
    apart = judge("computed", [[-9.0] * 16], [LIKELY], 0.1)
    assert without_stale_cache(apart, 16).reason == apart.reason
