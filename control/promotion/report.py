"""A promotion as a report for people who were not there: what was asked, what came out, how sure it is, which items."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from control.promotion.files import BrokenRun, Kept, kept_in
from control.promotion.sequential import interval
from control.promotion.verdict import look
from stepserve.report.blocks import (
    Block,
    Bullets,
    Curve,
    Document,
    Heading,
    Interval,
    Intervals,
    Paragraph,
    Point,
    Table,
    Tone,
    between,
    number,
)

log = logging.getLogger(__name__)

_TONES: dict[str, Tone] = {"promoted": "good", "refused": "bad", "rolled_back": "bad", "undecided": "open"}
_RULES = {
    "superior": "Promoted if a metric is shown to be better and none worse than its margin.",
    "non_inferior": "Promoted if every metric is shown to be no worse than its margin.",
}
_COLUMNS = ("dataset", "metric", "baseline", "candidate", "difference", "interval", "margin", "p", "pairs")
_ITEM_COLUMNS = ("question", "reference", "baseline", "candidate")
_MOST_CURVES = 4
_POINTS = 16


def report_of(job_id: str, result: dict[str, Any], run_dir: Path) -> Document:
    """`result` is that of a promotion that is decided. The curves are left out where its files are gone. Blocks."""
    decision, rule = str(result["decision"]), result["rule"]
    candidate, baseline = result["candidate"], result["baseline"]
    blocks: list[Block] = [
        Paragraph(f"{decision.replace('_', ' ').capitalize()}.", _TONES.get(decision, "plain")),
        Bullets([str(reason) for reason in result["reasons"]]),
        Heading("The question"),
        Table(
            ("", "model", "digest"),
            [["candidate", candidate["id"], candidate["digest"]], ["baseline", baseline["id"], baseline["digest"]]],
        ),
        Paragraph(f"{_RULES[rule['test']]} The chance of promoting wrongly is at most {rule['alpha']:g}."),
        Heading("What came out"),
        Table(_COLUMNS, [_row(metric) for metric in result["per_metric"]]),
        Intervals("Difference of the candidate to the baseline", _intervals(result), (("no difference", 0.0),)),
        *_saturated(result),
        *_curves(run_dir),
    ]
    if result["guards"]:
        rows = [
            [one["guard"], one["kind"], number(one["value"]), number(one["limit"]), _standing(one)]
            for one in result["guards"]
        ]
        blocks += [Heading("Guards"), Table(("guard", "kind", "value", "limit", ""), rows)]
    blocks += [*_items(result), *_switch(result), Heading("How it can be checked"), _check(job_id, result)]
    return Document(f"Promotion of {candidate['id']} over {baseline['id']}", blocks)


def _standing(guard: dict[str, Any]) -> str:
    if guard["value"] is None:
        return "not known"
    return "over" if guard["over"] else "within"


def _row(metric: dict[str, Any]) -> list[str]:
    used = f"{metric['samples_used']} of {metric['samples_planned']}"
    ends = metric["interval"]
    return [
        metric["dataset"],
        metric["metric"],
        number(metric["a"]),
        number(metric["b"]),
        number(metric["difference"], signed=True),
        between(ends, signed=True),
        number(metric["margin"]),
        number(metric["p"]),
        used,
    ]


def _intervals(result: dict[str, Any]) -> list[Interval]:
    return [
        Interval(_named(metric), metric["interval"][0], metric["difference"], metric["interval"][1])
        for metric in result["per_metric"]
        if metric["interval"] is not None
    ]


def _named(metric: dict[str, Any]) -> str:
    return f"{metric['metric']} on {metric['dataset']}"


def _saturated(result: dict[str, Any]) -> list[Block]:
    """Questions that all are right, or none, for both tell nobody apart."""
    told = []
    for metric in result["per_metric"]:
        both = {metric["a"], metric["b"]}
        if both in ({0.0}, {1.0}):
            all_or_none = "all" if both == {1.0} else "none"
            told.append(f"{_named(metric)} is saturated: both models have {all_or_none} right, so it can show nothing.")
    return [Paragraph(text, "open") for text in told]


def _curves(run_dir: Path) -> list[Block]:
    try:
        kept = kept_in(run_dir, texts=False)
    except BrokenRun as error:
        log.info("a report without curves: %s", error)
        return []
    if not kept.config.sequential:
        return []
    counts = look(kept.config, kept.sets).counts
    numbers = range(min(_MOST_CURVES, len(kept.config.metrics)))
    return [chart for one in numbers if (chart := _curve(kept, one, counts)) is not None]


def _curve(kept: Kept, metric_number: int, counts: tuple[int, ...]) -> Curve | None:
    """How the difference and its interval went while pairs came in; these intervals hold at all points at once."""
    metric = kept.config.metrics[metric_number]
    units = kept.sets[metric.set].units(metric.metric, counts[metric.set])
    total = units.sums.size
    points = []
    for count in sorted({int(at) for at in np.linspace(min(total, 4), total, _POINTS)}) if total > 1 else []:
        part = units.first(count)
        if (size := float(part.sizes.sum())) > 0:
            low, high = interval(part, min(1.0, 2 * kept.config.rule.alpha))
            points.append(Point(size, low, float(part.sums.sum()) / size, high))
    dataset = kept.config.sets[metric.set].config.dataset.name
    title = f"{metric.metric} on {dataset}: the difference while pairs came in"
    marks = (("no difference", 0.0), ("margin", -metric.margin))
    return Curve(title, "pairs", points, marks if metric.margin else marks[:1]) if len(points) > 1 else None


def _items(result: dict[str, Any]) -> list[Block]:
    items = result["items"]
    if not items:
        return []
    rows = [[str(item[key]) for key in ("question", "target", "baseline", "candidate")] for item in items]
    return [Heading("Questions that decided"), Table(_ITEM_COLUMNS, rows, folded=f"{len(items)} questions")]


def _switch(result: dict[str, Any]) -> list[Block]:
    return [*_canary(result), *_activation(result)]


def _canary(result: dict[str, Any]) -> list[Block]:
    canary = result.get("canary")
    if canary is None:
        return []
    rows = [
        [name, str(arm["requests"]), str(arm["errors"]), number(arm["latency_s"]), number(arm["tokens"])]
        for name, arm in (("candidate", canary["candidate"]), ("active", canary["active"]))
    ]
    table = Table(("", "requests", "errors", "latency (s)", "tokens"), rows)
    return [Heading("The canary"), table, *_judge(canary), *_canary_guards(canary)]


def _judge(canary: dict[str, Any]) -> list[Block]:
    judged = canary.get("judge")
    if judged is None:
        return []
    good = [[name, number(judged[f"{key}_good"])] for name, key in (("candidate", "candidate"), ("active", "active"))]
    said = f"A judge read {judged['pairs']} answers of each model; {judged['unread']} got no verdict."
    why = f" The last trouble: {judged['trouble']}." if judged["trouble"] else ""
    return [Paragraph(said + why), Table(("", "share of good answers"), good)]


def _canary_guards(canary: dict[str, Any]) -> list[Block]:
    """How near each limit was at the end."""
    rows = [
        [guard["guard"], number(guard["value"]), number(guard["limit"]), f"{100 * guard['evidence']:.0f} %"]
        for guard in canary.get("guards", [])
    ]
    return [Table(("limit on", "value", "limit", "evidence of a breach"), rows)] if rows else []


def _activation(result: dict[str, Any]) -> list[Block]:
    activation = result.get("activation")
    if activation is None:
        return []
    error = f": {activation['error']}" if activation.get("error") else ""
    return [Heading("The switch"), Paragraph(f"{activation['status']}{error}")]


def _check(job_id: str, result: dict[str, Any]) -> Paragraph:
    version = f" by version {result['version']}" if "version" in result else ""
    return Paragraph(
        f"Decided{version} from the files in runs/promotion/{job_id}; `stepserve promote --replay` works the decision"
        " out of them again."
    )
