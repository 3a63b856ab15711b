"""A measure by training step: what evals and promotions found, and where the active model changed.

Steps are those of the models that are registered now, by id and digest; what has none is left out.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import pandas as pd
import streamlit as st

from stepserve.client.results import EvalPoint, Job, Model, PastActivation
from ui.format import NOTHING, percent, points
from ui.promotion_words import Asked
from ui.visitor import local

Row = dict[str, Any]
Steps = Mapping[tuple[str, str], int]
Measure = tuple[str, str]
"""A metric, and the dataset."""

EVAL: Final = "eval"
SWITCH: Final = "made active"
_OUTCOMES = {"promoted": "#1e8449", "refused": "#c0392b", "undecided": "#7f8c8d", "rolled back": "#d35400"}
_HEIGHT = 320  # pixels
_HIDDEN: Row = {"type": "rule", "aria": False}  # from screen readers: the table below says the same


def steps_of(models: Iterable[Model]) -> Steps:
    return {(model.id, model.digest): model.step for model in models if model.step is not None}


def measures_of(promotions: Iterable[Job], evals: Iterable[EvalPoint]) -> list[Measure]:
    """Those of the newest promotions first."""
    found: dict[Measure, None] = {}
    for job in promotions:
        for metric in (job.result or {}).get("per_metric") or []:
            found[metric["metric"], metric["dataset"]] = None
    for point in evals:
        told = point.as_json()
        if told["accuracy_metric"]:
            found[told["accuracy_metric"], told["dataset"]] = None
    return list(found)


def of_evals(history: Iterable[EvalPoint], metric: str) -> Iterator[Row]:
    """A point an eval of one dataset, with the 95 % interval."""
    for point in history:
        told = point.as_json()
        value = told["metrics"].get(metric)
        if point.step is None or value is None:
            continue
        low, high = told.get("metrics_ci95", {}).get(metric) or (None, None)
        yield {
            "what": EVAL,
            "step": point.step,
            "model": point.model_id,
            "value": value,
            "low": low,
            "high": high,
            "series": point.series,
            "said": NOTHING,
            "when": point.created_at,
            "job": point.job_id,
        }


def of_promotions(jobs: Iterable[Job], measure: Measure, steps: Steps) -> Iterator[Row]:
    """What candidates scored. The interval is that of the difference, put on what the baseline scored."""
    for job in jobs:
        asked, result = Asked.of(job.config), job.result or {}
        if asked is None or job.status != "done":
            continue
        step = steps.get((asked.candidate, asked.candidate_digest))
        metric = _measured(result, measure)
        if step is None or metric is None or metric["b"] is None:
            continue
        ends = metric["interval"]
        low, high = (None, None) if ends is None else (max(0.0, metric["a"] + ends[0]), min(1.0, metric["a"] + ends[1]))
        yield {
            "what": str(result["decision"]).replace("_", " "),
            "step": step,
            "model": asked.candidate,
            "value": metric["b"],
            "low": low,
            "high": high,
            "series": None,
            "said": f"{points(metric['difference'])} to {asked.baseline}, {metric['samples_used']} questions",
            "when": job.completed_at,
            "job": job.id,
        }


def of_switches(activations: Iterable[PastActivation], steps: Steps) -> Iterator[Row]:
    """Where another model became the active one."""
    for one in activations:
        step = steps.get((one.id, one.digest or ""))
        if one.status == "done" and step is not None:
            yield {
                "what": SWITCH,
                "step": step,
                "model": one.id,
                "value": None,
                "low": None,
                "high": None,
                "series": None,
                "said": f"by {one.cause}",
                "when": one.finished_at,
                "job": NOTHING,
            }


def draw(rows: list[Row]) -> None:
    """A line an eval's settings, a diamond a promotion in the colour of its decision, an upright line a switch."""
    frame = pd.DataFrame([{**row, "when": local(row["when"])} for row in rows])
    where = {"field": "step", "type": "quantitative", "title": "training step"}
    height = {"field": "value", "type": "quantitative", "title": None, "axis": {"format": "%"}}
    tips = [{"field": name, "type": "nominal"} for name in ("what", "model", "said", "when", "job")]
    tips += [{"field": "step", "type": "quantitative"}, {"field": "value", "type": "quantitative", "format": ".1%"}]
    colour = {
        "field": "what",
        "type": "nominal",
        "scale": {"domain": list(_OUTCOMES), "range": list(_OUTCOMES.values())},
        "legend": {"orient": "bottom", "title": "promotions"},
    }
    whiskers = {"x": where, "y": {**height, "field": "low"}, "y2": {"field": "high"}}
    series = {"field": "series", "type": "nominal", "legend": None}
    evals, tried = f"datum.what === '{EVAL}'", f"datum.what !== '{EVAL}' && datum.what !== '{SWITCH}'"

    def layer(only: str, mark: Row, encoding: Row) -> Row:
        return {"transform": [{"filter": only}], "mark": mark, "encoding": encoding}

    spec = {
        "height": _HEIGHT,
        "layer": [
            layer(
                f"datum.what === '{SWITCH}'",
                _HIDDEN | {"strokeDash": [6, 4], "strokeWidth": 2},
                {"x": where, "tooltip": tips},
            ),
            layer(evals, _HIDDEN, {**whiskers, "color": series}),
            layer(evals, {"type": "line"}, {"x": where, "y": height, "color": series}),
            layer(
                evals,
                {"type": "point", "filled": True, "size": 50},
                {"x": where, "y": height, "color": series, "tooltip": tips},
            ),
            layer(tried, _HIDDEN, {**whiskers, "color": {**colour, "legend": None}}),
            layer(
                tried,
                {"type": "point", "filled": True, "size": 110, "shape": "diamond"},
                {"x": where, "y": height, "color": colour, "tooltip": tips},
            ),
        ],
        "resolve": {"scale": {"color": "independent"}},
    }
    st.vega_lite_chart(frame, spec, alt="A measure by training step, with intervals; the table below says the same")


def table(rows: list[Row]) -> pd.DataFrame:
    """The same by step, the newest of a step first."""
    ordered = sorted(rows, key=lambda row: (-row["step"], -_at(row["when"])))
    return pd.DataFrame([_shown(row) for row in ordered])


def _measured(result: Mapping[str, Any], measure: Measure) -> Mapping[str, Any] | None:
    metrics = result.get("per_metric") or []
    return next((one for one in metrics if (one["metric"], one["dataset"]) == measure), None)


def _shown(row: Row) -> Row:
    ends = "" if row["low"] is None else f"{percent(row['low'])} to {percent(row['high'])}"
    return {
        "step": row["step"],
        "model": row["model"],
        "what": row["what"],
        "score": percent(row["value"]),
        "interval": ends or NOTHING,
        "": row["said"],
        "when": local(row["when"]),
        "job": row["job"],
    }


def _at(when: datetime | None) -> float:
    return 0.0 if when is None else when.timestamp()


def draw_plain(points: list[Row], title: str) -> None:
    """`step` and `value` alone, as points on a line."""
    spec = {
        "height": 160,
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "title": "training step"},
            "y": {"field": "value", "type": "quantitative", "title": title, "scale": {"zero": False}},
        },
    }
    st.vega_lite_chart(pd.DataFrame(points), spec, alt=f"{title} by training step")
