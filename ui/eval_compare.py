"""Two evals compared: first the sentence, then the numbers, then the questions that decided."""

from typing import Any

import streamlit as st

from stepserve.client import comparison
from ui import links
from ui.connection import server
from ui.eval_samples import side_by_side
from ui.format import NOTHING, chance, points
from ui.harmless import harmless
from ui.job_choice import choose_job, eval_title

_COMPARED = "compared_evals"


def draw() -> None:
    """Raises StepserveError."""
    left, right = st.columns(2)
    with left:
        before = choose_job("Before", "a", type="eval", status="done", title=eval_title, nth=1)
    with right:
        after = choose_job("After", "b", type="eval", status="done", title=eval_title)
    if before is None or after is None or before == after:
        st.info("Two evals of the same dataset are needed. The tab *Start one* makes them.")
        return
    told = _compared(before, after)
    st.header(harmless(comparison.sentence(told)))
    st.caption(f"{_how_sure(told)} {comparison.doubt(told)}")
    for column, (label, value) in zip(
        st.columns(4),
        (
            ("Fixed", str(told.get("fixed", NOTHING))),
            ("Broken", str(told.get("broken", NOTHING))),
            ("Difference", points(told["difference"])),
            ("p", chance(told["p"])),
        ),
        strict=True,
    ):
        column.metric(label, value)
    if told["differs"]:
        st.warning(harmless(f"The two runs differ in {', '.join(told['differs'])}."))
    changed, failures = st.columns(2)
    with changed:
        links.to(
            "evals",
            "All samples whose verdict changed",
            icon=":material/compare_arrows:",
            tab="Samples",
            eval=after,
            since=before,
            samples_changed="true",
        )
    with failures:
        links.to(
            "data",
            f"Make training data from what {told['b']['model_id']} still gets wrong",
            icon=":material/dataset:",
            tab="Start one",
            strategy="fix_eval_failures",
            eval=after,
        )
    fixed, broken = st.tabs(["Fixed", "Broken"])
    with fixed:
        side_by_side(before, after, told.get("fixed_ids", []), "fixed")
    with broken:
        side_by_side(before, after, told.get("broken_ids", []), "broken")


def _compared(before: str, after: str) -> dict[str, Any]:
    """The server reads every sample of both for it: once while the page is looked at. Raises StepserveError."""
    known: tuple[tuple[str, str], dict[str, Any]] | None = st.session_state.get(_COMPARED)
    if known is None or known[0] != (before, after):
        known = (before, after), server(patient=True).compare_evals(before, after)
        st.session_state[_COMPARED] = known
    return known[1]


def _how_sure(told: dict[str, Any]) -> str:
    """From how many questions, and between what the difference lies."""
    counted = f"{told['paired']:,} questions"
    if told["clusters"] is not None:
        counted += f" in {told['clusters']} clusters"
    if (ends := told["difference_ci95"]) is None:
        return f"{counted}: too few clusters for an interval."
    return f"{counted}; the difference's 95 % interval: {points(ends[0])} to {points(ends[1])}."
