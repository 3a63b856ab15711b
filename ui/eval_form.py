"""Starting an eval: of a dataset, or of a task file of lm-eval or inspect-ai."""

import json
from collections.abc import Sequence
from typing import Any

import streamlit as st

from stepserve.client.errors import NotFound
from ui.choice import choose_model
from ui.connection import server, trouble_shown
from ui.harmless import harmless

_KINDS = ("A dataset", "A task file of lm-eval or inspect-ai")
_DATASET, _TASK = _KINDS


def draw() -> None:
    with trouble_shown():
        model = choose_model("Model", "evals_model")
        if model is None:
            return
        kind = st.radio("Questions from", _KINDS, key="evals_kind", horizontal=True)
        if kind == _DATASET:
            _of_dataset(model)
        else:
            _of_task(model)


def _of_dataset(model: str) -> None:
    datasets = server().list_datasets()
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
            _say_made(made.job_id, made.status)
    with st.expander("Add a dataset"), st.form("evals_put", clear_on_submit=True):
        file = st.file_uploader("JSONL, a question and an answer a line", type=["jsonl", "gz"], key="evals_file")
        if st.form_submit_button("Add") and file is not None:
            with trouble_shown():
                put = server(patient=True).put_dataset(file.name, file.getvalue())
                st.success(f"{put.name} is there.")
    if datasets:
        _remove_dataset([one.name for one in datasets])


def _remove_dataset(names: Sequence[str]) -> None:
    with st.expander("Remove a dataset"), st.form("evals_remove", clear_on_submit=True):
        name = st.selectbox("File", names, index=None, key="evals_removed")
        if st.form_submit_button("Remove for good") and name is not None:
            with trouble_shown():
                removed = server().remove_dataset(name)
                st.success(f"{removed['name']} is removed; what evals on it found stays.")


def _of_task(model: str) -> None:
    """Raises StepserveError."""
    try:
        told = server().list_eval_tasks()
    except NotFound:
        st.info("This server runs no task files.")
        return
    missing = [name for name, one in told["harnesses"].items() if not one["installed"]]
    if missing:
        st.caption(f"Not installed: {', '.join(missing)}. `stepserve eval install-harness NAME` installs one.")
    if told["run_by"] == "nobody":
        st.info("Nobody may run task files: set `task_files.run_by` to `admin` or `jobs`.")
        return
    harness_of = {one["file"]: one["harness"] for one in told["files"]}
    if not harness_of:
        st.info("There is no task file. Put a .yaml of lm-eval or a .py of inspect-ai into `tasks/` on the server.")
        return
    with st.form("evals_task"):
        file = st.selectbox(
            "Task file", list(harness_of), key="evals_task_file", format_func=lambda one: f"{one} ({harness_of[one]})"
        )
        name = st.text_input("Name", value="eval", key="evals_task_name")
        which = st.text_input("Which task of a file of inspect-ai", key="evals_task_which").strip()
        arguments = st.text_input(
            "Its arguments, as a JSON object", key="evals_task_args", placeholder='{"split": "test"}'
        )
        metric = st.text_input("Which score counts (default: its first one)", key="evals_task_metric").strip()
        chat = st.checkbox("Ask chat turns with the model's template (lm-eval)", key="evals_task_chat")
        count = st.number_input("At most so many questions", 1, None, None, key="evals_task_count", placeholder="all")
        shots = st.number_input("Worked examples (lm-eval)", 0, 100, None, key="evals_task_shots")
        asked = st.form_submit_button("Start", type="primary")
    if not asked:
        return
    try:
        given = json.loads(arguments) if arguments.strip() else {}
    except ValueError as error:
        st.warning(harmless(f"The arguments are not a JSON object: {error}"))
        return
    task: dict[str, Any] = {"file": file, "name": which, "args": given, "metric": metric, "chat": chat}
    more: dict[str, Any] = {"max_samples": count, "num_fewshot": shots}
    made = server().eval_task(
        model,
        name or "eval",
        {key: value for key, value in task.items() if value},
        **{key: value for key, value in more.items() if value is not None},
    )
    _say_made(made.job_id, made.status)


def _say_made(job_id: str, status: str) -> None:
    st.success(f"{job_id} is {status}. Its progress is on the page Jobs.")
