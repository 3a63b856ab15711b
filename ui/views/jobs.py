"""Every job: how far it is, and what can be done with it."""

import streamlit as st

from stepserve.client.results import OVER, Job
from ui.connection import server, trouble_shown
from ui.format import duration, moment
from ui.harmless import harmless

_EVERY_S = 2.0
_SHOWN = 30
_LISTED = 100
_TYPES = ("all", "eval", "data_gen", "pull", "batch", "inference")
_STATUSES = ("all", "pending", "running", "done", "failed", "cancelled")
_ICONS = {
    "pending": ":material/schedule:",
    "running": ":material/play_arrow:",
    "done": ":material/check:",
    "failed": ":material/error:",
    "cancelled": ":material/block:",
}


def show() -> None:
    st.title("Jobs")
    kind, status = st.columns(2)
    kind.selectbox("Kind", _TYPES, key="jobs_type")
    status.selectbox("Status", _STATUSES, key="jobs_status")
    _listing()


@st.fragment(run_every=_EVERY_S)
def _listing() -> None:
    with trouble_shown():
        stats = server().job_stats()
        for column, name in zip(st.columns(5), _STATUSES[1:], strict=True):
            column.metric(name, stats[name])
        kind, status = st.session_state["jobs_type"], st.session_state["jobs_status"]
        jobs = server().list_jobs(
            type=None if kind == "all" else kind, status=None if status == "all" else status, limit=_LISTED
        )
        if not jobs:
            st.info("No such job. Start an eval on the page Evals, or make training data on the page Data.")
            return
        for job in jobs[:_SHOWN]:
            _job(job)
        if len(jobs) > _SHOWN:
            more = f"{len(jobs)}{' or more' if len(jobs) == _LISTED else ''}"
            st.caption(f"The newest {_SHOWN} of {more} are shown; choose a kind or a status to see others.")


def _job(job: Job) -> None:
    with st.container(border=True, key=f"job_{job.id}"):
        st.markdown(
            f"{_ICONS[job.status]} **{job.id}** · {job.status} · {job.model_id or ''} · {moment(job.created_at)}"
        )
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
