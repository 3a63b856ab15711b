"""Evals: start one, see accuracy by step, compare two, read what was answered."""

from functools import partial

import streamlit as st

from stepserve.client.results import EvalHistoryPage, Job
from ui import address, eval_compare, eval_form, paging
from ui.connection import server, soon, trouble_shown
from ui.eval_charts import HISTORY_COLUMNS, Point, draw_accuracy, history_table
from ui.eval_samples import browse
from ui.format import NOTHING
from ui.harmless import harmless
from ui.job_choice import choose_job, eval_title

_EVERY_S = 3.0
_SHOWN = 5  # under way, of each status
_LOOKED_AT = 50  # newest evals, whose datasets come first
_DRAWN = 200  # points of the chart; a browser takes a second for 500
_PAGE = "evals_page"


def show() -> None:
    st.title("Evals")
    views = (_results, _compare, _samples, eval_form.draw)
    tabs = address.tabs("evals_tab", ("Results", "Compare", "Samples", "Start one"))
    for tab, view in zip(tabs, views, strict=True):
        if tab.open:  # a comparison reads every sample of two runs
            with tab:
                view()


@st.fragment(run_every=_EVERY_S)
def _results() -> None:
    with trouble_shown():
        there = server()
        lists = [
            soon(partial(there.list_jobs, type="eval", status=status, limit=_SHOWN))
            for status in ("running", "pending")
        ]
        newest = soon(partial(there.eval_history_page, limit=_LOOKED_AT))
        datasets = soon(there.list_datasets)
        for jobs in lists:
            for job in jobs.result():
                _under_way(job)
        if not newest.result().total:
            st.info("No eval is done yet. The tab *Start one* makes the first.")
            return
        recent = [point["dataset"] for point in _by_age(newest.result())]
        names = [str(name) for name in dict.fromkeys([*recent, *(one.name for one in datasets.result())])]
        dataset = st.selectbox(
            "Dataset",
            names,
            key="evals_shown_dataset",
            on_change=partial(paging.begin_anew, _PAGE),
            bind="query-params",
        )
        page = there.eval_history_page(dataset, offset=paging.offset_of(_PAGE, _DRAWN), limit=_DRAWN)
        measured = _by_age(page)
        if measured:
            draw_accuracy(measured)
            st.caption("The bars are 95 % intervals. Lines join evals with the same questions, prompts and settings.")
            st.dataframe(history_table(measured), column_config=HISTORY_COLUMNS, hide_index=True)
        if page.left_out:
            st.caption(f"{len(page.left_out)} more had too many errors to say anything of their models.")
        paging.controls(_PAGE, len(measured) + len(page.left_out), page.total, _DRAWN)


def _by_age(page: EvalHistoryPage) -> list[Point]:
    """The newest first."""
    return sorted((point.as_json() for point in page.points), key=lambda point: str(point["created_at"]), reverse=True)


def _under_way(job: Job) -> None:
    done, total = job.progress.done, job.progress.total
    share = min(1.0, done / total) if total else 0.0
    st.progress(
        share, text=harmless(f"{job.id} ({job.model_id}): {job.waiting_for or f'{done} of {total or NOTHING}'}")
    )


def _compare() -> None:
    with trouble_shown():
        eval_compare.draw()


def _samples() -> None:
    with trouble_shown():
        job_id = choose_job("Eval", "eval", type="eval", status="done", title=eval_title)
        if job_id is not None:
            browse(job_id)
