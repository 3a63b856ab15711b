"""Accuracy by training step, as a chart and as a table."""

from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from ui.format import NOTHING, percent
from ui.visitor import local

Point = dict[str, Any]


def draw_accuracy(points: list[Point]) -> None:
    """By step where every point has one, else by the order in which they were made."""
    rows = pd.DataFrame([_row(point, number) for number, point in enumerate(_in_order(points))])
    by_step = bool(rows["step"].notna().all())
    where = (
        {"field": "step", "type": "quantitative", "title": "training step"}
        if by_step
        else {"field": "number", "type": "ordinal", "title": "eval"}
    )
    height = {
        "field": "accuracy",
        "type": "quantitative",
        "title": "accuracy",
        "scale": {"domain": [0, 1]},
        "axis": {"format": "%"},
    }
    tips = [
        {"field": "model", "type": "nominal"},
        {"field": "step", "type": "quantitative"},
        {"field": "accuracy", "type": "quantitative", "format": ".1%"},
        {"field": "job", "type": "nominal"},
    ]
    interval = {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}}
    spec: dict[str, Any] = {
        "height": 280,
        "encoding": {"x": where, "color": {"field": "series", "type": "nominal", "legend": None}},
        "layer": [
            {"mark": {"type": "rule", "aria": False}, "encoding": interval},
            {"mark": "line", "encoding": {"y": height}},
            {"mark": {"type": "point", "filled": True, "size": 60}, "encoding": {"y": height, "tooltip": tips}},
        ],
    }
    st.vega_lite_chart(rows, spec, alt="Accuracy with its interval; the table below says the same")


# Numbers stay numbers, so that a click on a column's head sorts them.
HISTORY_COLUMNS: dict[Any, Any] = {
    "accuracy": st.column_config.NumberColumn(format="%.1f %%"),
    "loss": st.column_config.NumberColumn(format="%.4g"),
}


def history_table(points: list[Point]) -> pd.DataFrame:
    """For HISTORY_COLUMNS."""
    return pd.DataFrame([_in_table(point) for point in points])


def _in_table(point: Point) -> dict[str, Any]:
    accuracy, interval = point["accuracy"], point["accuracy_ci95"]
    done_at = point["completed_at"]
    return {
        "model": point["model_id"],
        "step": point["step"],
        "accuracy": None if accuracy is None else 100 * accuracy,
        "95 % interval": NOTHING if interval is None else " to ".join(percent(end) for end in interval),
        "correct": point["correct"],
        "of": point["total_samples"],
        "loss": point["avg_loss"],
        "done": NOTHING if done_at is None else local(datetime.fromisoformat(done_at)),
        "name": point["name"],
        "job": point["job_id"],
    }


def _in_order(points: list[Point]) -> list[Point]:
    return sorted(points, key=lambda point: str(point["created_at"]))


def _row(point: Point, number: int) -> dict[str, Any]:
    low, high = point["accuracy_ci95"] or (None, None)
    return {
        "number": number + 1,
        "model": point["model_id"],
        "step": point["step"],
        "accuracy": point["accuracy"],
        "low": low,
        "high": high,
        "series": point["series"],
        "job": point["job_id"],
    }
