"""Promotions: may a checkpoint take the place of what serves? Those under way, the decisions, a measure by training
step, and a form.
"""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from stepserve.client.results import Job
from ui import address, paging, promotion_detail, promotion_form, step_curve
from ui.connection import server, soon, trouble_shown
from ui.format import NOTHING, points
from ui.harmless import harmless
from ui.job_choice import choose_job
from ui.promotion_words import Asked
from ui.visitor import local

_EVERY_S = 3.0
_SHOWN = 5  # under way, of each status
_LISTED = 20
_LOOKED_AT = 100  # newest promotions and evals, for the measures that there are
_DRAWN = 200  # evals and switches by step; a browser takes a second for 500
_PAGE = "promotions_page"


def show() -> None:
    st.title("Promotions")
    decisions, by_step, start = address.tabs("promotions_tab", ("Decisions", "By step", "Start one"))
    if decisions.open:
        with decisions:
            _decisions()
    if by_step.open:
        with by_step:
            _by_step()
    if start.open:
        with start:
            promotion_form.draw()
    promotion_form.confirm()


@st.fragment(run_every=_EVERY_S)
def _decisions() -> None:
    with trouble_shown():
        there = server()
        live = [
            soon(partial(there.list_jobs, type="promotion", status=status, limit=_SHOWN))
            for status in ("running", "pending")
        ]
        page = there.jobs_page("promotion", offset=paging.offset_of(_PAGE, _LISTED), limit=_LISTED)
        if not page.total:
            st.info("No promotion was asked for yet. The tab *Start one* asks for the first.")
            return
        for jobs in live:
            for job in jobs.result():
                _under_way(job)
        st.dataframe(pd.DataFrame([_row(job) for job in page.jobs]), hide_index=True)
        paging.controls(_PAGE, len(page.jobs), page.total, _LISTED)
        chosen = choose_job("Promotion", promotion_form.PARAMETER, type="promotion", title=_title)
        if chosen is not None:
            promotion_detail.draw(there.get_promotion(chosen))


def _by_step() -> None:
    """Read once, and not every few seconds: a training's history changes with its next checkpoint."""
    with trouble_shown():
        there = server()
        models = soon(there.list_models)
        activations = soon(partial(there.list_activations, limit=_DRAWN))
        newest = soon(partial(there.eval_history_page, limit=_LOOKED_AT))
        jobs = there.jobs_page("promotion", "done", limit=_LOOKED_AT).jobs
        measures = step_curve.measures_of(jobs, newest.result().points)
        if not measures:
            st.info("No promotion is decided and no eval is done yet.")
            return
        names = {f"{metric} on {dataset}": (metric, dataset) for metric, dataset in measures}
        chosen = st.selectbox("Measure", list(names), key="promotions_measure", bind="query-params")
        metric, dataset = names[chosen]
        steps = step_curve.steps_of(models.result())
        history = there.eval_history_page(dataset, limit=_DRAWN)
        rows = [
            *step_curve.of_evals(history.points, metric),
            *step_curve.of_promotions(jobs, (metric, dataset), steps),
            *step_curve.of_switches(activations.result(), steps),
        ]
        if not rows:
            st.info("None of the models that were measured has a training step; give one where they are registered.")
            return
        step_curve.draw(rows)
        st.caption(
            "Lines are evals with their 95 % intervals. A diamond is a candidate of a promotion: its bar is how far its"
            " difference to the baseline may lie, from what the baseline scored. A dashed line is where a model became"
            f" active. Only models with a step are shown, and the newest {_DRAWN} evals and {_LOOKED_AT} promotions."
        )
        st.dataframe(step_curve.table(rows), hide_index=True)


def _under_way(job: Job) -> None:
    done, total = job.progress.done, job.progress.total
    state = job.waiting_for or (f"{done} of {total} questions at most" if total else job.status)
    bar, cancel = st.columns([5, 1])
    bar.progress(min(1.0, done / total) if total else 0.0, text=harmless(f"{_models(job)}: {state}"))
    if cancel.button("Cancel", key=f"promotions_cancel_{job.id}"):
        with trouble_shown():
            server().cancel_job(job.id)
            st.rerun(scope="fragment")


def _row(job: Job) -> dict[str, Any]:
    result = job.result or {}
    asked = Asked.of(job.config)
    metrics = result.get("per_metric") or []
    used = sum(metric["samples_used"] for metric in metrics)
    return {
        "decided": local(job.completed_at),
        "decision": _decision(job),
        "candidate": asked.candidate if asked else job.model_id,
        "baseline": asked.baseline if asked else NOTHING,
        "differences": ", ".join(f"{one['metric']} {points(one['difference'])}" for one in metrics) or NOTHING,
        "questions": used or None,
        "switch": (result.get("activation") or {}).get("status") or NOTHING,
        "promotion": job.id,
    }


def _title(job: Job) -> str:
    """The same as long as the job is there, so that the choice stays what it is."""
    return f"{_models(job)} · {job.id}"


def _models(job: Job) -> str:
    asked = Asked.of(job.config)
    return f"{asked.candidate} for {asked.baseline}" if asked else job.model_id or job.id


def _decision(job: Job) -> str:
    """In a word: what was decided, or what became of the job."""
    decided = (job.result or {}).get("decision")
    return str(decided or job.status).replace("_", " ")
