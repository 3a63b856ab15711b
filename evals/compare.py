"""Two evals of the same questions, question by question: what was fixed, what broke, and whether that may be chance."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from evals.clusters import ClusteredMean, clustered_mean, spread_of
from evals.paired_tests import (
    bootstrap_95,
    mcnemar_exact,
    paired_t,
    smallest_difference,
    smallest_mean_difference,
    student_95,
)
from evals.record import MetricScore, SampleRecord

_SHOWN_IDS = 200
_NO_SPREAD = 1e-12

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


def compare(
    scores: Sequence[tuple[str, MetricScore, MetricScore]], clusters: Sequence[str] | None = None
) -> dict[str, Any]:
    """Of (id, score in a, score in b), at least one; differences are b - a.

    `clusters` [n] names what each question belongs to where some belong together: `stderr`, `t_p`, `p` and the
    interval allow for it; of one cluster there is no interval. `p` is the one to go by.
    """
    differences = [after.value - before.value for _, before, after in scores]
    count = len(scores)
    found = clustered_mean(differences, clusters or [str(number) for number in range(count)])
    decides = all(before.correct is not None and after.correct is not None for _, before, after in scores)
    single = decides and all(before.values is None and after.values is None for _, before, after in scores)
    report: dict[str, Any] = {
        "paired": count,
        "mean_a": math.fsum(before.value for _, before, _ in scores) / count,
        "mean_b": math.fsum(after.value for _, _, after in scores) / count,
        "difference": found.mean,
        "difference_ci95": _interval(differences, None if clusters is None else found),
        "stderr": found.error,
        "t_p": _t_p(found),
        "p": _p(found),
        "clusters": None if clusters is None else found.clusters,
        "repeated": _repeated(scores),
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
        if single and clusters is None:
            report["p"] = report["mcnemar_p"]
            detectable = smallest_difference(count, len(fixed) + len(broken))
            return report | {"smallest_detectable_difference": detectable}
    return report | {"smallest_detectable_difference": smallest_mean_difference(found.error)}


def _interval(differences: Sequence[float], clustered: ClusteredMean | None) -> list[float] | None:
    if clustered is None:
        return list(bootstrap_95(differences))
    if clustered.error is None:
        return None
    return list(student_95(clustered.mean, clustered.error, clustered.clusters - 1))


def _t_p(found: ClusteredMean) -> float:
    return min(1.0, 2 * min(paired_t(found.mean, found.error, found.clusters - 1)))


def _p(found: ClusteredMean) -> float:
    """Of Student's t; of the exact sign test where no cluster differs from another, which t takes for certainty."""
    if found.error is None or found.error > _NO_SPREAD:
        return _t_p(found)
    return mcnemar_exact(found.clusters if abs(found.mean) > _NO_SPREAD else 0, 0)


def _repeated(scores: Sequence[tuple[str, MetricScore, MetricScore]]) -> dict[str, Any] | None:
    """How much of the noise comes from answering again; None where each question was answered once."""
    spreads = [spread_of([(old, new)[side].values or [] for _, old, new in scores]) for side in (0, 1)]
    if None in spreads:
        return None
    return {
        name: {"within": spread.within, "between": spread.between}
        for name, spread in zip(("a", "b"), spreads, strict=True)
        if spread is not None
    }
