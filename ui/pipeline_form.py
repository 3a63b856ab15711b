"""A pipeline as text: its first rows before anything is made, then a job of it."""

import json
from collections.abc import Mapping
from typing import Any, Final

import streamlit as st

from stepserve.client.object_text import object_in
from ui.choice import choose_model
from ui.connection import server, trouble_shown
from ui.harmless import cut, harmless

_ROWS: Final = 10
_SHOWN: Final = "pipeline_shown"
_EXAMPLE: Final = """\
num_examples = 100
user = "{{ question }}"
assistant = "{{ answer }}"

[[columns]]
name = "a"
kind = "integers"
low = 10
high = 99

[[columns]]
name = "b"
kind = "integers"
low = 10
high = 99

[[columns]]
name = "question"
kind = "expression"
template = "What is {{ a }}+{{ b }}?"

[[columns]]
name = "answer"
kind = "prompt"
template = "{{ question }}"
"""


def draw() -> None:
    with trouble_shown():
        model = choose_model("Model", "pipeline_model")
        if model is None:
            return
        written = st.text_area("Pipeline, as TOML or JSON", _EXAMPLE, key="pipeline_text", height=420)
        st.caption("Columns, kinds and their fields: docs/pipelines.md")
        try:
            config = object_in(written)
        except ValueError as error:
            st.session_state.pop(_SHOWN, None)
            st.warning(harmless(f"The pipeline {error}."))
            return
        look, run, _ = st.columns([1, 1, 4])
        if look.button(f"Preview {_ROWS} rows", key="pipeline_preview"):
            st.session_state.pop(_SHOWN, None)
            with st.spinner("The model is asked"):
                found = server(patient=True).preview_pipeline(model, config, _ROWS)
            st.session_state[_SHOWN] = (model, config, found)
        if run.button("Run", type="primary", key="pipeline_run"):
            made = server().datagen_job(model, "pipeline", config)
            st.success(f"{made.job_id} is {made.status}. The tab *Jobs and shards* shows it.")
        shown = st.session_state.get(_SHOWN)
        if shown is not None and shown[:2] == (model, config):  # of what stands there, not of what stood there before
            _preview(shown[2])


def _preview(found: Mapping[str, Any]) -> None:
    rows = found["rows"]
    kept, examples = sum(bool(row["examples"]) for row in rows), sum(len(row["examples"]) for row in rows)
    st.header("Preview")
    st.caption(
        f"{kept} of {len(rows)} rows would be kept, {examples} examples. To begin a job with the same values, put"
        f" `seed = {found['seed']}` into the pipeline."
    )
    table = [
        {
            "row": row["attempt"],
            **{name: _cell(made[name]) if name in made else "" for name in found["order"]},
            "why dropped": why,  # no column can have that name
        }
        for row in rows
        for made, why in _lines(row)
    ]
    st.dataframe(table, hide_index=True)
    for row in rows:
        for example in row["examples"]:
            with st.container(border=True):
                for turn in example["messages"]:
                    st.text(cut(f"{turn['role']}: {turn['content']}"))


def _lines(row: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    """The values of each line of the table, one for each item of a row that is split; why is said once a row."""
    why = "; ".join(f"{one['reason']}: {one['why']}" for one in row["rejected"])
    items = row["items"] or [{}]
    return [({**row["columns"], **item}, why if number == 0 else "") for number, item in enumerate(items)]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
