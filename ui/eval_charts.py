"""Accuracy by training step, as a chart and as a table."""

from typing import Any

import pandas as pd
import streamlit as st

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
            {"mark": "rule", "encoding": interval},
            {"mark": "line", "encoding": {"y": height}},
            {"mark": {"type": "point", "filled": True, "size": 60}, "encoding": {"y": height, "tooltip": tips}},
        ],
    }
    st.vega_lite_chart(rows, spec)


def history_table(points: list[Point]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "model": point["model_id"],
                "step": point["step"],
                "accuracy": point["accuracy"],
                "correct": point["correct"],
                "of": point["total_samples"],
                "loss": point["avg_loss"],
                "name": point["name"],
                "job": point["job_id"],
            }
            for point in sorted(points, key=lambda point: str(point["completed_at"]), reverse=True)
        ]
    )


def newest(points: list[Point], count: int) -> list[Point]:
    return _in_order(points)[-count:]


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
