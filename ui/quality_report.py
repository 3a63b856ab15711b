"""The quality report of a data generation job, as charts."""

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
import streamlit as st

from ui.format import NOTHING, number, percent
from ui.harmless import harmless

_ROW_PIXELS: Final = 26
_PARTS: Final = {"question_chars": "questions", "answer_chars": "answers"}


def draw_report(report: Mapping[str, Any]) -> None:
    """`report` without its shards will do."""
    job, made, cost = report["job"], report["yield"], report["cost"]
    shown = (
        ("Rows", f"{job['rows']:,}"),
        ("Accepted", percent(made["accepted_share"])),
        ("Near a known one", percent(job["duplicates"]["near_share"])),
        ("Give a test question away", percent(job["contamination"]["share"])),
        ("Tokens a row", number(cost["tokens_per_row"])),
        ("Joules a row", number(cost["joules_per_row"])),
    )
    for place, (label, value) in zip(st.columns(len(shown)), shown, strict=True):
        place.metric(label, value)
    _limits(report.get("limits", []))
    if job["rows"]:
        st.header("Lengths")
        _lengths(job["lengths"])
    st.header("Dropped, by reason")
    if made["rejected"]:
        _bars([{"what": reason, "count": count} for reason, count in made["rejected"].items()], "count", None)
    else:
        st.caption("Nothing was rejected.")
    st.header("Yield, by verifier")
    if made["by_verifier"]:
        _verifiers(made["by_verifier"])
    else:
        st.caption("Nothing was verified.")
    if job["rows"]:
        st.header("Share, by source")
        _sources(job["sources"], job["rows"])


def _limits(limits: list[dict[str, Any]]) -> None:
    for limit in limits:
        if not limit["is_kept"]:
            found = "it is not known" if limit["value"] is None else f"it is {number(limit['value'])}"
            st.error(f"The limit `{limit['name']}` of {number(limit['limit'])} was missed: {found}.")
    if kept := [limit["name"] for limit in limits if limit["is_kept"]]:
        st.caption(f"Limits that were kept: {', '.join(kept)}")


def _lengths(lengths: Mapping[str, Any]) -> None:
    """By class, each twice as wide as the one before."""
    rows = [
        {"characters": name, "upper": int(name.removeprefix("<")), "of": what, "rows": count}
        for part, what in _PARTS.items()
        for name, count in lengths[part].get("histogram", {}).items()
    ]
    spec: dict[str, Any] = {
        "height": 220,
        "mark": "bar",
        "encoding": {
            "x": {"field": "characters", "type": "ordinal", "sort": {"field": "upper"}, "axis": {"labelAngle": 0}},
            "xOffset": {"field": "of"},
            "y": {"field": "rows", "type": "quantitative", "title": "rows"},
            "color": {"field": "of", "type": "nominal", "legend": {"orient": "bottom", "title": None}},
            "tooltip": [{"field": name} for name in ("of", "characters", "rows")],
        },
    }
    st.vega_lite_chart(pd.DataFrame(rows), spec)
    said = (
        f"{what} {number(lengths[part]['mean'])} on average, nine in ten {lengths[part]['p5']} to"
        f" {lengths[part]['p95']}"
        for part, what in _PARTS.items()
        if lengths[part]
    )
    st.caption(f"Characters of {'; '.join(said)}")


def _verifiers(verifiers: Mapping[str, Any]) -> None:
    rows = [
        {"what": name, "count": counts[outcome], "outcome": outcome, "yield": percent(counts["yield"])}
        for name, counts in verifiers.items()
        for outcome in ("passed", "failed")
    ]
    _bars(rows, "count", "outcome")
    st.caption(", ".join(f"{harmless(name)} {percent(counts['yield'])}" for name, counts in verifiers.items()))


def _sources(sources: Mapping[str, Any], total: int) -> None:
    top = [
        {"what": one["value"] or NOTHING, "share": one["rows"] / total, "rows": one["rows"]} for one in sources["top"]
    ]
    _bars(top, "share", None)
    about = "" if sources["is_exact"] else "about "
    st.caption(f"{about}{sources['distinct']:,} sources; the largest has {percent(sources['largest_share'])}")


def _bars(rows: list[dict[str, Any]], value: str, color: str | None) -> None:
    """One a row, the longest first."""
    spec: dict[str, Any] = {
        "height": 60 + _ROW_PIXELS * len({row["what"] for row in rows}),
        "mark": "bar",
        "encoding": {
            "y": {"field": "what", "type": "nominal", "sort": "-x", "title": None, "axis": {"labelLimit": 300}},
            "x": {"field": value, "type": "quantitative", "title": value},
            "tooltip": [{"field": name} for name in rows[0]],
        },
    }
    if value == "share":
        spec["encoding"]["x"]["axis"] = {"format": ".1%"}
    if color is not None:
        spec["encoding"]["color"] = {"field": color, "type": "nominal", "legend": {"orient": "bottom", "title": None}}
    st.vega_lite_chart(pd.DataFrame(rows), spec)
