"""Traffic over time, with a mark wherever something else began to answer, or stopped."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from stepserve.client.results import Job, PastActivation
from ui.format import milliseconds
from ui.visitor import local

Row = dict[str, Any]
_COLOURS = {"activation": "#1f6feb", "push": "#6f42c1", "promotion": "#1e8449", "death": "#b42318"}
_HEIGHT = 220  # pixels


def marks(
    past: Iterable[PastActivation], promotions: Iterable[Job], told: Sequence[Mapping[str, Any]], earliest: datetime
) -> list[Row]:
    """Activations and promotions that ended, pushes and deaths, since then: the newest first."""
    rows = [*_switches(past), *_promotions(promotions), *_told(told)]
    return sorted((row for row in rows if row["time"] >= earliest), key=lambda row: row["time"], reverse=True)


def draw(samples: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> None:
    """Requests and tokens per second as lines, an upright line a mark, and the marks as a table."""
    traffic = [
        {"time": sample["at"], "what": what, "value": value}
        for sample in samples
        for what, value in (("requests/s", sample["requests_per_s"]), ("tokens/s", tokens_per_s(sample)))
    ]
    points = [*traffic, *({"time": row["time"].isoformat(), "kind": row["kind"], "said": row["said"]} for row in rows)]
    if not points:
        st.caption("Nothing was measured in this time.")
        return
    time = {"field": "time", "type": "temporal", "title": None}
    colour = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": list(_COLOURS), "range": list(_COLOURS.values())},
        "legend": {"orient": "bottom", "title": None},
    }
    spec: dict[str, Any] = {
        "height": _HEIGHT,
        "layer": [
            {
                "transform": [{"filter": "isValid(datum.what)"}],
                "mark": "line",
                "encoding": {
                    "x": time,
                    "y": {"field": "value", "type": "quantitative", "title": None, "axis": {"format": "~g"}},
                    "strokeDash": {"field": "what", "type": "nominal", "legend": {"orient": "bottom", "title": None}},
                },
            },
            {
                "transform": [{"filter": "isValid(datum.kind)"}],
                "mark": {"type": "rule", "strokeWidth": 2, "aria": False},
                "encoding": {
                    "x": time,
                    "color": colour,
                    "tooltip": [
                        {"field": "kind", "type": "nominal"},
                        {"field": "said", "type": "nominal"},
                        {"field": "time", "type": "temporal", "format": "%x %X"},
                    ],
                },
            },
        ],
    }
    st.vega_lite_chart(pd.DataFrame(points), spec, alt="Requests and tokens per second over time, with marks")
    if rows:
        table = [{"when": local(row["time"]), "what": row["kind"], "": row["said"]} for row in rows]
        st.dataframe(pd.DataFrame(table), hide_index=True, height=min(240, 38 + 35 * len(table)))


def tokens_per_s(sample: Mapping[str, Any]) -> float | None:
    """Of all models; None where nothing is known."""
    return None if sample["requests_per_s"] is None else sum(sample["tokens_per_s"].values())


def _switches(past: Iterable[PastActivation]) -> Iterator[Row]:
    for one in past:
        when = one.finished_at or one.started_at
        if when is None or one.status == "running":
            continue
        how = f"{one.id} failed" if one.status == "failed" else f"{one.previous or 'nothing'} → {one.id}"
        paused = "" if one.paused_ms is None else f", paused for {milliseconds(one.paused_ms)}"
        yield {"time": when, "kind": "activation", "said": f"{how} ({one.cause}{paused})"}


def _promotions(jobs: Iterable[Job]) -> Iterator[Row]:
    for job in jobs:
        decision = (job.result or {}).get("decision")
        if job.completed_at is not None and decision is not None:
            said = f"{job.config.get('candidate') or job.model_id}: {str(decision).replace('_', ' ')}"
            yield {"time": job.completed_at, "kind": "promotion", "said": said}


def _told(told: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for mark in told:
        said = f"{mark['model']} died" if mark["kind"] == "death" else f"{mark['model']}: {mark['said']}"
        yield {"time": datetime.fromisoformat(mark["at"]), "kind": mark["kind"], "said": said}
