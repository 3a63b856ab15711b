"""Every job: how far it is, and what can be done with it."""

from functools import partial

import streamlit as st

from stepserve.client.results import OVER, Job
from ui import paging
from ui.connection import server, trouble_shown
from ui.format import NOTHING, duration
from ui.harmless import harmless
from ui.job_choice import is_partial
from ui.visitor import hover, since

_EVERY_S = 2.0
_SHOWN = 30
_PAGE = "jobs_page"
_TYPES = ("all", "eval", "promotion", "data_gen", "pull", "batch", "inference")
_STATUSES = ("all", "pending", "running", "done", "failed", "cancelled")
_ICONS = {
    "pending": ":material/schedule:",
    "running": ":material/play_arrow:",
    "done": ":material/check:",
    "failed": ":material/error:",
    "cancelled": ":material/block:",
}
_PARTIAL = ":material/rule:"


def show() -> None:
    st.title("Jobs")
    kind, status, text = st.columns([1, 1, 2])
    anew = partial(paging.begin_anew, _PAGE)
    kind.selectbox("Kind", _TYPES, key="jobs_type", on_change=anew, bind="query-params")
    status.selectbox("Status", _STATUSES, key="jobs_status", on_change=anew, bind="query-params")
    text.text_input(
        "Find", key="jobs_text", placeholder="part of an id, or of a model's name", on_change=anew, bind="query-params"
    )
    _listing()


@st.fragment(run_every=_EVERY_S)
def _listing() -> None:
    with trouble_shown():
        stats = server().job_stats()
        for column, name in zip(st.columns(5), _STATUSES[1:], strict=True):
            column.metric(name, stats[name])
        kind, status = st.session_state["jobs_type"], st.session_state["jobs_status"]
        page = server().jobs_page(
            None if kind == "all" else kind,
            None if status == "all" else status,
            st.session_state["jobs_text"].strip(),
            offset=paging.offset_of(_PAGE, _SHOWN),
            limit=_SHOWN,
        )
        if not page.total:
            st.info("No such job. Start an eval on the page Evals, or make training data on the page Data.")
            return
        for job in page.jobs:
            _job(job)
        paging.controls(_PAGE, len(page.jobs), page.total, _SHOWN)


def _job(job: Job) -> None:
    with st.container(border=True, key=f"job_{job.id}"):
        icon, status = (_PARTIAL, "done in part") if is_partial(job) else (_ICONS[job.status], job.status)
        model = harmless(job.model_id or NOTHING)
        said = f"{icon} **{harmless(job.id)}** · {status} · {model} · {since(job.created_at)}"
        st.markdown(said, help=hover(job.created_at))
        _progress(job)
        if job.waiting_for:
            st.caption(harmless(f"Waits: {job.waiting_for}"))
        if job.error:
            st.error(harmless(job.error))
        act, look = st.columns([1, 3])
        if job.status not in OVER:
            if act.button("Cancel", key=f"cancel_{job.id}"):
                with trouble_shown():
                    server().cancel_job(job.id)
                    st.rerun(scope="fragment")
        elif job.status != "done" and act.button("Retry", key=f"retry_{job.id}"):
            with trouble_shown():
                server().retry_job(job.id)
                st.rerun(scope="fragment")
        if look.toggle("Details and log", key=f"look_{job.id}"):
            _details(job)


def _progress(job: Job) -> None:
    done, total = job.progress.done, job.progress.total
    if not total:
        return
    text = f"{done} of {total}"
    if job.status == "running" and job.progress.eta_s is not None:
        text += f", {job.progress.rate_per_s:.1f}/s, {duration(job.progress.eta_s)} left"
    st.progress(min(1.0, done / total), text=text)


def _details(job: Job) -> None:
    st.json({"config": job.config, "result": job.result}, expanded=1)
    with trouble_shown():
        tail = server().logs("jobs", lines=1000).lines
        mine = [str(line) for line in tail if job.id in str(line)][-50:]
        st.code("\n".join(mine) or "The newest 1000 lines of the log do not name it.", language=None)
