"""Accuracy by training step, as a chart and as a table."""

from typing import Any

import altair as alt
import pandas as pd

Point = dict[str, Any]


def accuracy_chart(points: list[Point]) -> alt.LayerChart | alt.FacetChart:
    """By step where every point has one, else by the order in which they were made."""
    rows = pd.DataFrame([_row(point, number) for number, point in enumerate(_in_order(points))])
    by_step = bool(rows["step"].notna().all())
    where = alt.X("step:Q" if by_step else "number:O", title="training step" if by_step else "eval")
    height = alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    colour = alt.Color("series:N", legend=None)
    base = alt.Chart(rows).encode(x=where, color=colour)
    tips = ["model", "step", alt.Tooltip("accuracy:Q", format=".1%"), "job"]
    return alt.layer(
        base.mark_rule().encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line().encode(y=height),
        base.mark_point(filled=True, size=60).encode(y=height, tooltip=tips),
    ).properties(height=280)


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
