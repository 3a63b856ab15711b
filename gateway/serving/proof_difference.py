"""What a proof compares, and how far two log-probabilities are apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from stepserve.contract import Proof

# Held to the mean over all tokens. Two correct implementations differ by rounding: for a model in bfloat16 the mean was
# 0.04 to 0.07 here, while single unlikely tokens were 1 to 3 apart. Stale weights were 5 apart in the mean.
TOLERANCE = 0.25
# A token that both find impossible says nothing: its log-probability is a difference of large numbers, and every other
# model may find it impossible too. Such tokens are not compared.
FLOOR = -12.0
# Fewer than so many that are compared prove nothing.
FEWEST_COMPARED = 16
_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Difference:
    """Of log-probabilities, in nats, over the tokens that say something; `inf` when one is not a finite number."""

    tokens: int
    mean: float
    most: float


def compare(found: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> Difference:
    """Both [n_prompts][n_tokens - 1]; where a row of one is shorter, the rest of the other is left out."""
    apart: list[float] = []
    for row, reference_row in zip(found, expected, strict=False):
        for mine, theirs in zip(row, reference_row, strict=False):
            if not (math.isfinite(mine) and math.isfinite(theirs)):
                return Difference(len(apart), math.inf, math.inf)
            if max(mine, theirs) > FLOOR:
                apart.append(abs(max(mine, FLOOR) - max(theirs, FLOOR)))
    return Difference(len(apart), fmean(apart) if apart else 0.0, max(apart, default=0.0))


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
    kind: Literal["reference", "computed"], found: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]
) -> Proof:
    """Both [n_prompts][n_tokens - 1]."""
    apart = compare(found, expected)
    is_finite = math.isfinite(apart.mean)
    passed = apart.mean <= TOLERANCE
    reason = why = None
    if not is_finite:
        reason = "a log-probability is not a finite number"
    elif not passed:
        reason = (
            f"the log-probabilities of {apart.tokens} tokens are {apart.mean:.3f} nats from the reference's on average,"
            f" and {TOLERANCE:g} are allowed"
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
        tolerance=TOLERANCE,
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
