"""The samples that were chosen as a dataset of their own: the same questions with the same references."""

import json
from collections.abc import Mapping
from typing import Any

import streamlit as st

from ui.connection import server, trouble_shown
from ui.harmless import harmless

MOST = 10_000
_AT_ONCE = 1000


def draw(job_id: str, chosen: Mapping[str, Any], total: int) -> None:
    with st.expander(f"Make a dataset of these {min(total, MOST):,}"), st.form("samples_dataset", border=False):
        name = st.text_input("Name", key="samples_dataset_name", placeholder="hard_sums.jsonl").strip()
        if total > MOST:
            st.caption(f"The first {MOST:,} of {total:,}.")
        asked = st.form_submit_button("Make the dataset")
    if asked and not name:
        st.warning("Give the dataset a name.")
    elif asked:
        file = name if name.endswith(".jsonl") else f"{name}.jsonl"
        with trouble_shown(), st.spinner("Reading the samples …"):
            put = server(patient=True).put_dataset(file, content_of(job_id, chosen))
            st.success(harmless(f"{put.name} is there, with {min(total, MOST):,} questions."))


def content_of(job_id: str, chosen: Mapping[str, Any]) -> bytes:
    """A line a sample, of the format `input_target`. Raises StepserveError."""
    lines: list[str] = []
    there = server(patient=True)
    while len(lines) < MOST:
        told = there.eval_samples(job_id, offset=len(lines), limit=_AT_ONCE, **chosen)
        lines += [json.dumps(_row(sample), ensure_ascii=False) for sample in told["samples"]]
        if len(told["samples"]) < _AT_ONCE:
            break
    return "".join(f"{line}\n" for line in lines[:MOST]).encode()


def _row(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": sample["id"], "input": sample["input"], "target": sample["target"]}
