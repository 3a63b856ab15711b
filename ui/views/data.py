"""Training data: start a job, watch what is rejected and why, read examples, download shards."""

import json
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from stepserve.client.results import Job
from ui import address, pipeline_form
from ui.choice import choose_model
from ui.connection import server, trouble_shown
from ui.harmless import harmless
from ui.job_choice import choose_job, eval_title, is_partial
from ui.quality_report import draw_report

_EVERY_S = 3.0
_READ_BYTES = 64 * 1024
_OVER = frozenset({"done", "failed"})
_STRATEGIES = {
    "self_instruct": "New tasks out of seed tasks",
    "fix_eval_failures": "Variants of what an eval got wrong",
    "custom": "A template, filled with rows",
}
_ROWS = "\n".join(json.dumps({"a": a, "b": b}) for a, b in ((12, 34), (56, 17), (81, 9)))


def show() -> None:
    st.title("Data")
    tabs = address.tabs("data_tab", ("Jobs and shards", "Start one", "Pipeline"))
    for tab, view in zip(tabs, (_jobs, _start, pipeline_form.draw), strict=True):
        if tab.open:
            with tab:
                view()


def _start() -> None:
    with trouble_shown():
        model = choose_model("Model", "data_model")
        if model is None:
            return
        address.follow("strategy", "data_strategy", list(_STRATEGIES), next(iter(_STRATEGIES)))
        strategy = st.selectbox(
            "Strategy",
            list(_STRATEGIES),
            key="data_strategy",
            format_func=lambda name: f"{name}: {_STRATEGIES[name]}",
            on_change=partial(address.remember, "strategy", "data_strategy"),
        )
        config: dict[str, Any] = {"num_examples": int(st.number_input("Examples", 1, 1_000_000, 100, key="data_count"))}
        if not _more(str(strategy), config):
            return
        if st.button("Start", type="primary", key="data_start"):
            made = server().datagen_job(model, str(strategy), config)
            st.success(f"{made.job_id} is {made.status}.")


def _more(strategy: str, config: dict[str, Any]) -> bool:
    """What one strategy needs; False when it is not there."""
    if strategy == "fix_eval_failures":
        chosen = choose_job("Eval", "eval", type="eval", status="done", title=eval_title)
        if chosen is None:
            st.info("It needs an eval that is done. Start one on the page Evals.")
            return False
        config["source_eval_run_id"] = chosen
        return True
    if strategy == "self_instruct":
        if domain := st.text_input("Domain, such as math", key="data_domain").strip():
            config["domain"] = domain
        return True
    config["template"] = st.text_input("Template", "What is {{a}}+{{b}}?", key="data_template")
    config["verify"] = st.selectbox("Check answers", ("none", "executed", "majority"), key="data_verify")
    written = st.text_area("Rows, one JSON object a line", _ROWS, key="data_rows", height=120)
    try:
        config["rows"] = [json.loads(line) for line in written.splitlines() if line.strip()]
    except ValueError as error:
        st.warning(harmless(f"The rows are not valid JSON: {error}"))
        return False
    return True


@st.fragment(run_every=_EVERY_S)
def _jobs() -> None:
    with trouble_shown():
        if not server().jobs_page("data_gen", limit=1).total:
            st.info("No training data was made yet. The tab *Start one* makes some.")
            return
        job_id = choose_job("Job", "job", type="data_gen", title=_title)
        if job_id is not None:
            _job(server().get_datagen_job(job_id))


def _title(job: Job) -> str:
    return f"{job.id} · {job.config.get('strategy', '')}"


def _job(job: Job) -> None:
    done, total = job.progress.done, job.progress.total
    if total:
        st.progress(min(1.0, done / total), text=f"{job.status}: {done} of {total}")
    if job.waiting_for:
        st.caption(harmless(f"Waits: {job.waiting_for}"))
    if job.error:
        st.error(harmless(job.error))
    result = job.result or {}
    if is_partial(job):
        st.warning(f"Only {result.get('accepted')} of {result.get('num_examples')} examples were made.")
    if job.status in _OVER and st.toggle("Quality report", key=f"report_{job.id}"):
        with trouble_shown():
            draw_report(_report(job))
    elif "accepted" in result:
        accepted, rejected = st.columns([1, 2])
        accepted.metric("Accepted", result["accepted"])
        reasons = {name: count for name, count in result.get("rejected", {}).items() if count}
        if reasons:
            rejected.bar_chart(pd.Series(reasons, name="rejected"), horizontal=True, height=60 + 30 * len(reasons))
        else:
            rejected.caption("Nothing was rejected.")
    for name in job.shards:
        _shard(job.id, name)


def _report(job: Job) -> dict[str, Any]:
    """Read once: it changes only if the job is tried again, and the page is drawn every few seconds.

    Raises StepserveError.
    """
    key = f"report_of_{job.id}_{job.completed_at}"
    if key not in st.session_state:
        whole = server(patient=True).datagen_report(job.id)
        st.session_state[key] = {name: value for name, value in whole.items() if name != "shards"}
    found: dict[str, Any] = st.session_state[key]
    return found


def _shard(job_id: str, name: str) -> None:
    """Read on demand alone: a shard may be long."""
    label, read, save = st.columns([3, 1, 1])
    label.text(name)
    if read.toggle("Read", key=f"read_{name}"):
        with trouble_shown():
            _examples(_head(job_id, name))
    save.download_button(
        "Download", lambda: _whole(job_id, name), name.rpartition("/")[2], "application/jsonl", key=f"save_{name}"
    )


def _whole(job_id: str, name: str) -> bytes:
    """Fetched when somebody asks for it."""
    with server(patient=True).streaming("GET", f"/data_gen/jobs/{job_id}/shards/{name}") as answer:
        return answer.read()


def _head(job_id: str, name: str) -> list[dict[str, Any]]:
    """The examples within the first 64 kB. Raises StepserveError."""
    path = f"/data_gen/jobs/{job_id}/shards/{name}"
    with server().streaming("GET", path, headers={"range": f"bytes=0-{_READ_BYTES - 1}"}) as answer:
        text = answer.read().decode(errors="replace")
    whole = text if len(text) < _READ_BYTES else text.rpartition("\n")[0]
    return [json.loads(line) for line in whole.split("\n") if line.strip()]


def _examples(rows: list[dict[str, Any]]) -> None:
    for row in rows[:20]:
        with st.container(border=True):
            for turn in row.get("messages", []):
                st.text(f"{turn['role']}: {turn['content']}")
            if "messages" not in row:
                st.json(row)
    st.caption(f"{min(20, len(rows))} examples from the beginning")
