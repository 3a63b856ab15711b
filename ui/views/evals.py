"""Evals: start one, see accuracy by step, compare two, read what was answered."""

from functools import partial

import streamlit as st

from stepserve.client.results import Job
from ui.choice import choose_model
from ui.connection import server, soon, trouble_shown
from ui.eval_charts import draw_accuracy, history_table, newest
from ui.eval_samples import browse, side_by_side
from ui.format import NOTHING, percent
from ui.harmless import harmless

_EVERY_S = 3.0
_SHOWN = 5  # under way, of each status
_LISTED = 300
_DRAWN = 200  # points of the chart; a browser takes a second for 500


def show() -> None:
    st.title("Evals")
    views = (_results, _compare, _samples, _start)
    tabs = st.tabs(("Results", "Compare", "Samples", "Start one"), key="evals_tab", on_change="rerun")
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


def _put_dataset() -> None:
    with st.expander("Add a dataset"), st.form("evals_put", clear_on_submit=True):
        file = st.file_uploader("JSONL, a question and an answer a line", type=["jsonl", "gz"], key="evals_file")
        if st.form_submit_button("Add") and file is not None:
            with trouble_shown():
                put = server(patient=True).put_dataset(file.name, file.getvalue())
                st.success(f"{put.name} is there.")


@st.fragment(run_every=_EVERY_S)
def _results() -> None:
    with trouble_shown():
        there = server()
        lists = [
            soon(partial(there.list_jobs, type="eval", status=status, limit=_SHOWN))
            for status in ("running", "pending")
        ]
        history = soon(partial(there.eval_history, limit=_LISTED))
        for jobs in lists:
            for job in jobs.result():
                _under_way(job)
        points = [point.as_json() for point in history.result()]
        if not points:
            st.info("No eval is done yet. The tab *Start one* makes the first.")
            return
        names = sorted({str(point["dataset"]) for point in points})
        dataset = st.selectbox("Dataset", names, key="evals_shown_dataset")
        mine = [point for point in points if point["dataset"] == dataset]
        draw_accuracy(newest(mine, _DRAWN))
        of_all = f" Drawn are the newest {_DRAWN} of {len(mine)}." if len(mine) > _DRAWN else ""
        st.caption(
            f"The bars are 95 % intervals. Lines join evals with the same questions, prompts and settings.{of_all}"
        )
        st.dataframe(history_table(mine), hide_index=True)


def _under_way(job: Job) -> None:
    done, total = job.progress.done, job.progress.total
    share = min(1.0, done / total) if total else 0.0
    st.progress(
        share, text=harmless(f"{job.id} ({job.model_id}): {job.waiting_for or f'{done} of {total or NOTHING}'}")
    )


def _done_evals() -> dict[str, str]:
    """Titles by job id, the newest first."""
    done = server().list_jobs(type="eval", status="done", limit=200)
    return {job.id: f"{job.model_id} · {percent((job.result or {}).get('accuracy'))} · {job.id}" for job in done}


def _compare() -> None:
    with trouble_shown():
        titles = _done_evals()
        if len(titles) < 2:
            st.info("Two evals of the same dataset are needed. The tab *Start one* makes them.")
            return
        ids = list(titles)
        left, right = st.columns(2)
        before = left.selectbox("Before", ids, index=1, key="evals_a", format_func=titles.__getitem__)
        after = right.selectbox("After", ids, index=0, key="evals_b", format_func=titles.__getitem__)
        told = server().compare_evals(before, after)
        for column, (label, value) in zip(
            st.columns(4),
            (
                ("Fixed", str(told.get("fixed", NOTHING))),
                ("Broken", str(told.get("broken", NOTHING))),
                ("Difference", percent(told["difference"])),
                ("p (McNemar)", NOTHING if told.get("mcnemar_p") is None else f"{told['mcnemar_p']:.2g}"),
            ),
            strict=True,
        ):
            column.metric(label, value)
        low, high = told["difference_ci95"]
        st.caption(f"{told['paired']} questions; the difference's 95 % interval: {percent(low)} to {percent(high)}")
        if told["differs"]:
            st.warning(harmless(f"The two runs differ in {', '.join(told['differs'])}."))
        fixed, broken = st.tabs(["Fixed", "Broken"])
        with fixed:
            side_by_side(before, after, told.get("fixed_ids", []), "fixed")
        with broken:
            side_by_side(before, after, told.get("broken_ids", []), "broken")


def _samples() -> None:
    with trouble_shown():
        titles = _done_evals()
        if not titles:
            st.info("No eval is done yet. The tab *Start one* makes the first.")
            return
        job_id = st.selectbox("Eval", list(titles), key="evals_job", format_func=titles.__getitem__)
        browse(job_id)
