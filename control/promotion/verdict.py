"""What the answers so far decide. Pure: of answers in memory while they come in, of a run's files at its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from control.promotion.pairs import RATIOS, Pairs, guard_values, held_by
from control.promotion.request import Guard, PromotionConfig, StoredMetric
from control.promotion.rule import Evidence, Outcome, at_any_time, at_the_end, decide, holm
from control.promotion.sequential import Units, interval, smallest_shown
from evals.compare import compare
from evals.record import MetricScore, SampleRecord

_SHOWN_ITEMS = 20
_LONGEST_TEXT = 1000

Records = dict[str, SampleRecord]


@dataclass(frozen=True, slots=True)
class Look:
    """`counts`: how many units of each set it is about; `evidence` None: nothing can be said yet."""

    outcome: Outcome
    counts: tuple[int, ...]
    evidence: Evidence | None = None

    @property
    def is_over(self) -> bool:
        return self.outcome.decision != "undecided"


def look(config: PromotionConfig, sets: Sequence[Pairs]) -> Look:
    """The first decision that the answers allow, in the order of the questions and not in that of the answers.

    After n units of each set; one that has fewer stays as it is at its end, never as it is for want of answers.
    """
    counts = [pairs.complete for pairs in sets]
    waiting = [count for count, pairs in zip(counts, sets, strict=True) if count < len(pairs.order)]
    looks = min(waiting) if waiting else max(counts)
    if not looks or (waiting and not config.sequential):
        return Look(Outcome("undecided", 0), (0,) * len(sets))
    counts = [min(count, looks) for count in counts]
    metrics = [sets[metric.set].units(metric.metric, counts[metric.set]) for metric in config.metrics]
    margins = [metric.margin for metric in config.metrics]
    held, over = held_by(list(zip(sets, counts, strict=True)), config.guards)
    if not config.sequential:
        evidence = at_the_end(metrics, margins)
        return Look(decide(evidence, config.rule, held[-1:], refuses=over), tuple(counts), evidence)
    evidence = at_any_time(metrics, margins)
    outcome = decide(evidence, config.rule, held, refuses=over and not waiting)
    return Look(outcome, tuple(min(count, outcome.looks) for count in counts), evidence)


def report(
    config: PromotionConfig, sets: Sequence[Pairs], records: Sequence[tuple[Records, Records]], found: Look
) -> dict[str, Any]:
    """The decision with its reasons, the numbers and the questions that decided. `records`: of baseline, candidate."""
    metrics = [_metric_report(config, sets, records, found, number) for number in range(len(config.metrics))]
    guards = [_guard_report(sets, found, guard, limit) for guard, limit in config.guards.items()]
    return {
        "decision": found.outcome.decision,
        "reasons": _reasons(config, found.outcome, metrics, guards),
        "per_metric": metrics,
        "guards": guards,
        "items": _items(config, sets, records, found),
    }


def _metric_report(
    config: PromotionConfig,
    sets: Sequence[Pairs],
    records: Sequence[tuple[Records, Records]],
    found: Look,
    number: int,
) -> dict[str, Any]:
    metric = config.metrics[number]
    pairs, count = sets[metric.set], found.counts[metric.set]
    scores, clusters = _scores(pairs, records[metric.set], metric, count)
    units = pairs.units(metric.metric, count)
    alpha = config.rule.alpha
    shown = {
        "dataset": config.sets[metric.set].config.dataset.name,
        "metric": metric.metric,
        "margin": metric.margin,
        "samples_used": len(scores),
        "samples_planned": sum(map(len, pairs.order)),
        "left_out": sum(map(len, pairs.order[:count])) - len(scores),
    }
    if not scores or found.evidence is None:
        empty = dict.fromkeys(("a", "b", "difference", "interval", "p", "p_not_worse", "p_worse"))
        return {**shown, **empty, "smallest_difference": None}
    compared = compare(scores, clusters)
    # Of 1 - 2 alpha: its lower end is above the margin just when a test of one side says so.
    ends = interval(units, min(1.0, 2 * alpha)) if config.sequential else compared["difference_ci95"]
    smallest = _smallest(config, units, metric) if config.sequential else compared["smallest_detectable_difference"]
    last = found.outcome.looks - 1
    evidence = found.evidence
    return {
        **shown,
        "a": compared["mean_a"],
        "b": compared["mean_b"],
        "difference": compared["difference"],
        "interval": None if ends is None else list(ends),
        "p": float(holm(evidence.above)[number, last]),
        "p_not_worse": float(evidence.above_margin[number, last]),
        "p_worse": float(holm(evidence.below_margin)[number, last]),
        "smallest_difference": smallest,
        **{key: compared.get(key) for key in ("stderr", "clusters", "fixed", "broken", "mcnemar_p", "t_p", "repeated")},
    }


def _smallest(config: PromotionConfig, units: Units, metric: StoredMetric) -> float | None:
    """Above 0 where the candidate has to be better, above -margin where it has to be no worse."""
    if config.rule.test == "superior":
        return smallest_shown(units, config.rule.alpha / len(config.metrics), 0.0)
    return smallest_shown(units, config.rule.alpha, -metric.margin)


def _scores(
    pairs: Pairs, records: tuple[Records, Records], metric: StoredMetric, count: int
) -> tuple[list[tuple[str, MetricScore, MetricScore]], list[str] | None]:
    baseline, candidate = records
    scores, clusters = [], []
    for unit in pairs.order[:count]:
        for name in unit:
            if None in (pairs.baseline[name].scores[metric.metric], pairs.candidate[name].scores[metric.metric]):
                continue
            old, new = baseline[name], candidate[name]
            scores.append((name, old.scores[metric.metric], new.scores[metric.metric]))
            clusters.append(unit[0])
    return scores, clusters if pairs.most > 1 else None


def _guard_report(sets: Sequence[Pairs], found: Look, guard: Guard, limit: float) -> dict[str, Any]:
    counted = list(zip(sets, found.counts, strict=True))
    values = guard_values(counted, guard) if max(found.counts, default=0) else np.zeros(0)
    value = float(values[-1]) if values.size and np.isfinite(values[-1]) else None
    kind = "ratio" if guard in RATIOS else "difference"
    return {"guard": guard, "kind": kind, "value": value, "limit": limit, "over": value is not None and value > limit}


def _reasons(
    config: PromotionConfig, outcome: Outcome, metrics: Sequence[dict[str, Any]], guards: Sequence[dict[str, Any]]
) -> list[str]:
    if outcome.deciding:
        return [_of_metric(config, outcome, metrics[number]) for number in outcome.deciding]
    over = [
        f"guard {guard['guard']}: the {guard['kind']} to the baseline is {guard['value']:.3g}, over {guard['limit']:g}"
        for guard in guards
        if guard["over"]
    ]
    if outcome.decision == "refused":
        return over
    unknown = [
        f"guard {guard['guard']}: no question has it of both models, so nobody can say whether it is within"
        f" {guard['limit']:g}"
        for guard in guards
        if guard["value"] is None and any(metric["samples_used"] for metric in metrics)
    ]
    return over + unknown + [_of_undecided(metric) for metric in metrics]


def _of_metric(config: PromotionConfig, outcome: Outcome, metric: dict[str, Any]) -> str:
    if outcome.decision == "refused":
        worse = metric["p_worse"] <= config.rule.alpha
        said = f"worse by more than {metric['margin']:g}" if worse else "worse"
    else:
        said = "better" if config.rule.test == "superior" else f"not worse by {metric['margin']:g}"
    return f"{_named(metric)} is shown to be {said}: {_difference(metric)}"


def _of_undecided(metric: dict[str, Any]) -> str:
    if not metric["samples_used"]:
        return f"{_named(metric)}: no question has a verdict of both models"
    smallest = metric["smallest_difference"]
    least = "no difference" if smallest is None else f"a difference of {smallest:+.3f} or more"
    return f"{_named(metric)} is open: {_difference(metric)}; so many would have shown {least}"


def _named(metric: dict[str, Any]) -> str:
    return f"{metric['metric']} on {metric['dataset']}"


def _difference(metric: dict[str, Any]) -> str:
    ends = metric["interval"]
    between = "" if ends is None else f" ({ends[0]:+.3f} to {ends[1]:+.3f})"
    changes = "" if metric["fixed"] is None else f", {metric['fixed']} fixed and {metric['broken']} broken"
    return f"{metric['difference']:+.3f}{between} over {metric['samples_used']} pairs{changes}"


def _items(
    config: PromotionConfig, sets: Sequence[Pairs], records: Sequence[tuple[Records, Records]], found: Look
) -> list[dict[str, Any]]:
    """The questions that decided: where a metric got worse those it lost most on, where it got better won most on.

    Of an open decision, and of what is merely no worse, those of both kinds.
    """
    outcome = found.outcome
    if outcome.decision == "refused" and not outcome.deciding:
        return _guarded_items(config, sets, records, found)
    better = outcome.decision == "promoted" and config.rule.test == "superior"
    signs = (1,) if better else (-1,) if outcome.decision == "refused" else (-1, 1)
    items = []
    for number in outcome.deciding or range(len(config.metrics)):
        metric = config.metrics[number]
        scores, _ = _scores(sets[metric.set], records[metric.set], metric, found.counts[metric.set])
        changes = [(new.value - old.value, name) for name, old, new in scores]
        dataset = config.sets[metric.set].config.dataset.name
        for sign in signs:
            changed = sorted((change for change in changes if change[0] * sign > 0), key=lambda one: -sign * one[0])
            named = {"dataset": dataset, "metric": metric.metric}
            items += [_item(named, records[metric.set], change) for change in changed[:_SHOWN_ITEMS]]
    return items


def _guarded_items(
    config: PromotionConfig, sets: Sequence[Pairs], records: Sequence[tuple[Records, Records]], found: Look
) -> list[dict[str, Any]]:
    """Those whose answers are furthest over what the guards look at."""
    items = []
    for guard, limit in config.guards.items():
        if not _guard_report(sets, found, guard, limit)["over"]:
            continue
        changes = []
        for number, (pairs, count) in enumerate(zip(sets, found.counts, strict=True)):
            for name in (name for unit in pairs.order[:count] for name in unit):
                old, new = pairs.baseline[name].marks[guard], pairs.candidate[name].marks[guard]
                if old is not None and new is not None and new > old:
                    changes.append((new - old, number, name))
        for difference, number, name in sorted(changes, reverse=True)[:_SHOWN_ITEMS]:
            named = {"dataset": config.sets[number].config.dataset.name, "guard": guard}
            items.append(_item(named, records[number], (difference, name)))
    return items


def _item(named: dict[str, Any], records: tuple[Records, Records], change: tuple[float, str]) -> dict[str, Any]:
    difference, name = change
    old, new = (side[name] for side in records)
    return {
        **named,
        "id": name,
        "difference": difference,
        "question": _text(new.input if isinstance(new.input, str) else new.input[-1].get("content")),
        "target": _text(new.target),
        "baseline": _text(old.prediction),
        "candidate": _text(new.prediction),
    }


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …"
