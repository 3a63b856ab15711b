"""Evals: start one, see accuracy by step, compare two, read what was answered."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from stepserve.client.results import EvalHistoryPage, Job
from ui import address, paging
from ui.choice import choose_model
from ui.connection import server, soon, trouble_shown
from ui.eval_charts import HISTORY_COLUMNS, Point, draw_accuracy, history_table
from ui.eval_samples import browse, side_by_side
from ui.format import NOTHING, chance, points
from ui.harmless import harmless
from ui.job_choice import choose_job, eval_title

_EVERY_S = 3.0
_SHOWN = 5  # under way, of each status
_LOOKED_AT = 50  # newest evals, whose datasets come first
_DRAWN = 200  # points of the chart; a browser takes a second for 500
_PAGE = "evals_page"


def show() -> None:
    st.title("Evals")
    views = (_results, _compare, _samples, _start)
    tabs = address.tabs("evals_tab", ("Results", "Compare", "Samples", "Start one"))
    for tab, view in zip(tabs, views, strict=True):
        if tab.open:  # a comparison reads every sample of two runs
            with tab:
                view()


def _start() -> None:
    with trouble_shown():
        model = choose_model("Model", "evals_model")
        datasets = server().list_datasets()
        if model is None:
            return
        if not datasets:
            st.info("There is no dataset. Put a JSONL file into `datasets/` on the server, or below.")
        else:
            with st.form("evals_start"):
                dataset = st.selectbox("Dataset", [one.name for one in datasets], key="evals_dataset")
                name = st.text_input("Name", value="eval", key="evals_name")
                count = st.number_input("At most so many questions", 1, 10_000_000, 1000, key="evals_count")
                asked = st.form_submit_button("Start", type="primary")
            if asked:
                made = server().eval_job(model, name or "eval", str(dataset), ["accuracy"], int(count))
                st.success(f"{made.job_id} is {made.status}. Its progress is on the page Jobs.")
        _put_dataset()
        if datasets:
            _remove_dataset([one.name for one in datasets])


def _put_dataset() -> None:
    with st.expander("Add a dataset"), st.form("evals_put", clear_on_submit=True):
        file = st.file_uploader("JSONL, a question and an answer a line", type=["jsonl", "gz"], key="evals_file")
        if st.form_submit_button("Add") and file is not None:
            with trouble_shown():
                put = server(patient=True).put_dataset(file.name, file.getvalue())
                st.success(f"{put.name} is there.")


def _remove_dataset(names: Sequence[str]) -> None:
    with st.expander("Remove a dataset"), st.form("evals_remove", clear_on_submit=True):
        name = st.selectbox("File", names, index=None, key="evals_removed")
        if st.form_submit_button("Remove for good") and name is not None:
            with trouble_shown():
                removed = server().remove_dataset(name)
                st.success(f"{removed['name']} is removed; what evals on it found stays.")


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
        left, right = st.columns(2)
        with left:
            before = _choose("Before", "a", nth=1)
        with right:
            after = _choose("After", "b")
        if before is None or after is None or before == after:
            st.info("Two evals of the same dataset are needed. The tab *Start one* makes them.")
            return
        told = server().compare_evals(before, after)
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
        st.caption(_how_sure(told))
        if told["differs"]:
            st.warning(harmless(f"The two runs differ in {', '.join(told['differs'])}."))
        fixed, broken = st.tabs(["Fixed", "Broken"])
        with fixed:
            side_by_side(before, after, told.get("fixed_ids", []), "fixed")
        with broken:
            side_by_side(before, after, told.get("broken_ids", []), "broken")


def _how_sure(told: dict[str, Any]) -> str:
    """From how many questions, and between what the difference lies."""
    counted = f"{told['paired']} questions"
    if told["clusters"] is not None:
        counted += f" in {told['clusters']} clusters"
    if (ends := told["difference_ci95"]) is None:
        return f"{counted}: too few clusters for an interval"
    return f"{counted}; the difference's 95 % interval: {points(ends[0])} to {points(ends[1])}"


def _samples() -> None:
    with trouble_shown():
        job_id = _choose("Eval", "eval")
        if job_id is not None:
            browse(job_id)


def _choose(label: str, parameter: str, nth: int = 0) -> str | None:
    """Raises StepserveError."""
    return choose_job(label, parameter, type="eval", status="done", title=eval_title, nth=nth)
