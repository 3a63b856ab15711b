"""A run of training: its checkpoints as a curve, which one serves, what became of each, and two of them compared."""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from stepserve.client.results import EvalPoint, Job, Model, PastActivation
from ui import links, paging, step_curve
from ui.connection import server, soon, trouble_shown
from ui.harmless import harmless
from ui.step_curve import Measure
from ui.training_run import Checkpoint, checkpoints_of, label, runs_of

_LOOKED_AT = 200  # newest evals, promotions and switches; a browser takes a second for 500 points
_LISTED = 15  # checkpoints a page
_PAGE = "runs_page"
_TICKS = "runs_tick_"
_MOST_REASONS = 3


def show() -> None:
    st.title("Runs")
    with trouble_shown():
        there = server()
        asked = soon(there.list_models), soon(partial(there.list_activations, limit=_LOOKED_AT))
        decided = soon(partial(there.jobs_page, "promotion", "done", limit=_LOOKED_AT))
        newest = soon(partial(there.eval_history_page, limit=_LOOKED_AT))
        runs = runs_of(asked[0].result())
        if not runs:
            st.info(
                "No model has a training step yet. A trainer's hook registers checkpoints with their step and a tag for"
                " the run: `stepserve models push FOLDER --step 500 --tags run7`."
            )
            return
        run = st.selectbox("Run", list(runs), key="runs_run", on_change=_begin_anew, bind="query-params")
        jobs, points = decided.result().jobs, newest.result().points
        measures = step_curve.measures_of(jobs, points)
        if not measures:
            st.info("None of its checkpoints is measured yet.")
            links.to("evals", "Start an eval", icon=":material/query_stats:", tab="Start one")
            return
        names = {f"{metric} on {dataset}": (metric, dataset) for metric, dataset in measures}
        measure = names[st.selectbox("Measure", list(names), key="runs_measure", bind="query-params")]
        is_all = all(point.as_json()["dataset"] == measure[1] for point in points)
        history = points if is_all else there.eval_history_page(measure[1], limit=_LOOKED_AT).points
        _curve(runs[run], history, jobs, asked[1].result(), measure)
        _checkpoints(checkpoints_of(runs[run], history, jobs, measure), measure)


def _begin_anew() -> None:
    paging.begin_anew(_PAGE)


def _curve(
    models: Sequence[Model],
    history: Sequence[EvalPoint],
    jobs: Sequence[Job],
    switches: Sequence[PastActivation],
    measure: Measure,
) -> None:
    """Of this run alone: score, and loss and energy where they are known."""
    steps, ids = step_curve.steps_of(models), {model.id for model in models}
    mine = [point for point in history if point.model_id in ids]
    rows = [
        *step_curve.of_evals(mine, measure[0]),
        *step_curve.of_promotions(jobs, measure, steps),
        *step_curve.of_switches(switches, steps),
    ]
    if not rows:
        st.info("None of its checkpoints is measured by this.")
        return
    step_curve.draw(rows)
    st.caption(
        "Lines are evals with their 95 % intervals. A diamond is a candidate of a promotion: its bar is how far its"
        " difference to the baseline may lie, from what the baseline scored. A dashed line is where a model became"
        f" active. Of the newest {_LOOKED_AT} evals and promotions."
    )
    told = [point.as_json() for point in mine]
    columns = st.columns(2)
    for column, (name, title) in zip(columns, (("avg_loss", "loss"), ("energy_j", "joules")), strict=True):
        known = [{"step": one["step"], "value": one[name]} for one in told if one.get(name) is not None]
        if known:
            with column:
                step_curve.draw_plain(known, title)
    with st.expander("As a table"):
        st.dataframe(step_curve.table(rows), hide_index=True)


def _checkpoints(checkpoints: Sequence[Checkpoint], measure: Measure) -> None:
    """Each with a box; two that are ticked can be compared."""
    st.header("Checkpoints")
    st.caption("Tick two that are measured to compare them.")
    begin = paging.offset_of(_PAGE, _LISTED)
    shown = checkpoints[begin : begin + _LISTED]
    by_eval = {one.eval_id: one for one in checkpoints if one.eval_id is not None}
    for one in shown:
        st.checkbox(label(one, measure), key=f"{_TICKS}{one.eval_id or one.model.id}", disabled=one.eval_id is None)
        for reason in one.reasons[:_MOST_REASONS]:
            st.caption(harmless(reason))
    paging.controls(_PAGE, len(shown), len(checkpoints), _LISTED)
    ticked = [job for job in by_eval if st.session_state.get(f"{_TICKS}{job}")]
    earlier_first = sorted(ticked, key=lambda job: by_eval[job].model.step or 0)
    if st.button("Compare", type="primary", key="runs_compare", disabled=len(ticked) != 2):
        links.go("evals", tab="Compare", a=earlier_first[0], b=earlier_first[1])
