"""What a proof compares, and what it finds."""

import math
from collections.abc import Sequence
from typing import Literal

from gateway.serving.proof_tolerance import over
from stepserve.contract import Proof
from stepserve.difference import FLOOR, compare

# Fewer than so many that are compared prove nothing.
FEWEST_COMPARED = 16
_SAME = 1e-6

# Of a proof for which clients wait, on a CPU: about 0.1 s of one core, whatever the model's size.
_PAUSED_BYTES_TOKENS = 20e9
_FEWEST_TOKENS = 40


def paused_tokens(weights_bytes: int) -> int:
    """How many tokens of its reference a model is asked for while nobody is served."""
    return max(_FEWEST_TOKENS, int(_PAUSED_BYTES_TOKENS / max(1, weights_bytes)))


def chosen_prompts(logprobs: Sequence[Sequence[float]], max_tokens: int | None) -> list[int]:
    """Which prompts of a reference are asked for, by number: all, or the shortest for about `max_tokens`, each whole.

    Never so few that they prove nothing, if all of them would prove something.
    """
    numbers = sorted(range(len(logprobs)), key=lambda number: len(logprobs[number]))
    if max_tokens is None:
        return numbers
    chosen: list[int] = []
    tokens = telling = 0
    for number in numbers:
        if chosen and telling >= FEWEST_COMPARED and tokens + len(logprobs[number]) > max_tokens:
            break
        chosen.append(number)
        tokens += len(logprobs[number])
        telling += sum(value > FLOOR for value in logprobs[number])
    return chosen


def judge(
    kind: Literal["reference", "computed"],
    found: Sequence[Sequence[float]],
    expected: Sequence[Sequence[float]],
    tolerance: float,
) -> Proof:
    """Both [n_prompts][n_tokens - 1]; `tolerance` is for a mean over very many tokens, in nats (proof_tolerance).

    Single unlikely tokens are far apart in right loads too.
    """
    apart = compare(found, expected)
    tolerance = over(apart.tokens, tolerance)
    is_finite = math.isfinite(apart.mean)
    passed = apart.mean <= tolerance
    reason = why = None
    if not is_finite:
        reason = "a log-probability is not a finite number"
    elif not passed:
        reason = (
            f"the log-probabilities of {apart.tokens} tokens are {apart.mean:.3f} nats from the reference's on average,"
            f" and {tolerance:g} are allowed"
        )
    elif apart.tokens < FEWEST_COMPARED:
        every = sum(len(row) for row in expected)
        why = (
            f"only {apart.tokens} of the reference's {every} tokens are likely enough to be compared, "
            f"and {FEWEST_COMPARED} are needed"
        )
    return Proof(
        kind=kind if why is None else "weak",
        prompts=len(found),
        tokens=apart.tokens,
        max_abs_diff=round(apart.most, 6) if is_finite else None,
        mean_abs_diff=round(apart.mean, 6) if is_finite else None,
        tolerance=tolerance,
        passed=passed,
        reason=reason,
        why=why,
    )


def judge_weakly(found: Sequence[Sequence[float]]) -> Proof:
    """Of log-probabilities that nothing is known of: [n_prompts][n_tokens - 1]."""
    every = [value for row in found for value in row]
    reason = None
    if not all(math.isfinite(value) for value in every):
        reason = "a log-probability is not a finite number"
    elif max(every) - min(every) <= _SAME:
        reason = f"the model finds all {len(every)} tokens of {len(found)} prompts equally likely"
    return Proof(
        kind="weak",
        prompts=len(found),
        tokens=len(every),
        passed=reason is None,
        reason=reason,
        why="there is no reference of this checkpoint: only that answers are finite and not constant was checked",
    )


def without_stale_cache(proof: Proof, stale_tokens: int) -> Proof:
    """`stale_tokens`: of a prompt, that were answered from what earlier weights had computed."""
    if not stale_tokens or not proof.passed:
        return proof
    reason = f"{stale_tokens} tokens of a prompt were answered from the KV cache of the weights before"
    return proof.model_copy(update={"passed": False, "reason": reason})
