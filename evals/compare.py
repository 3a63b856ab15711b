"""Two evals of the same questions, question by question: what was fixed, what broke, and whether that may be chance."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from evals.intervals import Z_95, mean_error
from evals.record import MetricScore, SampleRecord

RESAMPLES = 10_000
_SHOWN_IDS = 200
_MOST_VALUES = 1000
_Z_POWER = 0.8416212335729143  # the 0.8 quantile of the normal distribution
_SEED = 20250101

Pair = tuple[SampleRecord, SampleRecord]


def paired(first: Iterable[SampleRecord], second: Iterable[SampleRecord]) -> tuple[list[Pair], dict[str, int]]:
    """The questions both were asked, by id, with what was left out and why."""
    others = {record.id: record for record in second}
    pairs: list[Pair] = []
    left_out = {"only_a": 0, "only_b": 0, "different_question": 0, "engine_error": 0}
    for record in first:
        other = others.pop(record.id, None)
        if other is None:
            left_out["only_a"] += 1
        elif (record.input, record.target) != (other.input, other.target):
            left_out["different_question"] += 1
        elif record.error is not None or other.error is not None:
            left_out["engine_error"] += 1
        else:
            pairs.append((record, other))
    left_out["only_b"] = len(others)
    return pairs, left_out


def compare(scores: Sequence[tuple[str, MetricScore, MetricScore]]) -> dict[str, Any]:
    """Of (id, score in a, score in b), at least one; differences are b - a."""
    differences = [after.value - before.value for _, before, after in scores]
    count = len(scores)
    mean, error = mean_error(differences)
    decides = all(before.correct is not None and after.correct is not None for _, before, after in scores)
    single = decides and all(before.values is None and after.values is None for _, before, after in scores)
    report: dict[str, Any] = {
        "paired": count,
        "mean_a": math.fsum(before.value for _, before, _ in scores) / count,
        "mean_b": math.fsum(after.value for _, _, after in scores) / count,
        "difference": mean,
        "difference_ci95": list(bootstrap_95(differences)),
        "stderr": error,
    }
    if decides:
        fixed = [name for name, before, after in scores if after.correct and not before.correct]
        broken = [name for name, before, after in scores if before.correct and not after.correct]
        report |= {
            "both_right": sum(bool(before.correct and after.correct) for _, before, after in scores),
            "both_wrong": sum(not before.correct and not after.correct for _, before, after in scores),
            "fixed": len(fixed),
            "broken": len(broken),
            "fixed_ids": fixed[:_SHOWN_IDS],
            "broken_ids": broken[:_SHOWN_IDS],
            "mcnemar_p": mcnemar_exact(len(fixed), len(broken)),
        }
        if single:
            detectable = smallest_difference(count, len(fixed) + len(broken))
            return report | {"smallest_detectable_difference": detectable}
    detectable = None if error is None else (Z_95 + _Z_POWER) * error
    return report | {"smallest_detectable_difference": detectable}


def mcnemar_exact(fixed: int, broken: int) -> float:
    """Two-sided exact p of McNemar's test: the chance of a split at least as uneven of so many changes, were either
    direction as likely (binomial, one half). 1 without any change.
    """
    changes, fewer = fixed + broken, min(fixed, broken)
    term = total = 1
    for k in range(fewer):
        term = term * (changes - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / (1 << changes))


def bootstrap_95(differences: Sequence[float], resamples: int = RESAMPLES, seed: int = _SEED) -> tuple[float, float]:
    """The percentile interval of the mean over resampled pairs; the same on every call.

    Equal differences are drawn together, by their counts (multinomial), which is the same distribution. Beyond a
    thousand different values (graded metrics) it is near enough to the normal one, which is taken then.
    """
    counts: dict[float, int] = {}
    for difference in differences:
        counts[difference] = counts.get(difference, 0) + 1
    total = len(differences)
    if len(counts) > _MOST_VALUES:
        mean, error = mean_error(differences)
        spread = Z_95 * (error or 0.0)
        return mean - spread, mean + spread
    values = np.array(sorted(counts))
    shares = np.array([counts[value] for value in sorted(counts)]) / total
    means = np.random.default_rng(seed).multinomial(total, shares, size=resamples) @ values / total
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def smallest_difference(pairs: int, changes: int) -> float | None:
    """The difference between two proportions that so many pairs would show (two-sided 5 %) four times out of five.

    Connor's approximation (1987) for McNemar's test, at the share of changes that was seen (one more than there was),
    or at the difference itself where that is larger. Null where not even 1 would be enough.
    """
    seen = min(1.0, (changes + 1) / (pairs + 1))
    low, high = 0.0, 1.0

    def shown(difference: float) -> bool:
        share = max(seen, difference)
        need = Z_95 * math.sqrt(share) + _Z_POWER * math.sqrt(max(0.0, share - difference**2))
        return difference * math.sqrt(pairs) >= need

    if not shown(high):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high
