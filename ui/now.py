"""What runs, what waits and why, and what somebody should look at."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import streamlit as st

from stepserve.client.results import Job, PastActivation
from ui import links
from ui.format import duration
from ui.harmless import cut, harmless
from ui.visitor import since

_SHOWN = 5
_RECENT = timedelta(days=1)


def title(job: Job) -> str:
    """What it is, for a person: `eval of step-1500 on sums.jsonl`."""
    dataset = job.config.get("dataset_ref") or (job.config.get("dataset") or {}).get("name")
    of = f" of {job.model_id}" if job.model_id else ""
    on = f" on {dataset}" if isinstance(dataset, str) else ""
    return f"{job.type.replace('_', ' ')}{of}{on}"


def draw_jobs(running: Sequence[Job], waiting: Sequence[Job], waiting_in_all: int) -> None:
    st.header("Now")
    if not running and not waiting:
        st.caption("No job runs or waits.")
    for job in running:
        _progress(job)
    for job in waiting[:_SHOWN]:
        links.to(
            "jobs", f"{title(job)} waits: {job.waiting_for or 'its turn'}", icon=":material/schedule:", jobs_text=job.id
        )
    if waiting_in_all > _SHOWN:
        links.to("jobs", f"{waiting_in_all - _SHOWN} more wait", jobs_status="pending")


def draw_attention(failed: Sequence[Job], switches: Sequence[PastActivation]) -> None:
    """What failed within the last day, each with the way to it."""
    st.header("Needs attention")
    earliest = datetime.now(UTC) - _RECENT
    jobs = [job for job in failed if (job.completed_at or job.created_at or earliest) > earliest]
    bad = [one for one in switches if one.status == "failed" and one.started_at and one.started_at > earliest]
    if not jobs and not bad:
        st.caption("Nothing failed in the last 24 hours.")
        return
    for one in bad[:_SHOWN]:
        links.to("models", f"The switch to {one.id} failed {since(one.started_at)}", icon=":material/sync_problem:")
        st.text(cut(one.error or "No reason was given."))
    for job in jobs[:_SHOWN]:
        links.to("jobs", f"{title(job)} failed {since(job.completed_at)}", icon=":material/error:", jobs_text=job.id)
        st.text(cut(job.error or "No reason was given."))
    if len(jobs) > _SHOWN:
        links.to("jobs", f"{len(jobs) - _SHOWN} more jobs failed", jobs_status="failed")


def _progress(job: Job) -> None:
    done, total = job.progress.done, job.progress.total
    said = title(job)
    if total:
        said += f": {done:,} of {total:,}"
    if job.progress.eta_s is not None:
        said += f", {duration(job.progress.eta_s)} left"
    st.progress(min(1.0, done / total) if total else 0.0, text=harmless(said))
    links.to("jobs", job.id, jobs_text=job.id)
