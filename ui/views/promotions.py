"""Promotions: may a checkpoint take the place of what serves? Those under way, the decisions, and a form."""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from stepserve.client.results import Job
from ui import address, paging, promotion_detail, promotion_form
from ui.connection import server, soon, trouble_shown
from ui.format import NOTHING, points
from ui.harmless import harmless
from ui.job_choice import choose_job
from ui.promotion_words import Asked
from ui.visitor import local

_EVERY_S = 3.0
_SHOWN = 5  # under way, of each status
_LISTED = 20
_PAGE = "promotions_page"


def show() -> None:
    st.title("Promotions")
    decisions, start = address.tabs("promotions_tab", ("Decisions", "Start one"))
    if decisions.open:
        with decisions:
            _decisions()
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
