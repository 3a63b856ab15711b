"""Questions of an eval with what was answered: wrong ones first, and two runs side by side."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from stepserve.client.calls import Verdict
from ui.connection import server
from ui.harmless import cut, harmless

PER_PAGE = 10
_VERDICTS: dict[str, Verdict | None] = {
    "all, wrong ones first": None,
    "wrong": "wrong",
    "right": "right",
    "failed in the engine": "failed",
}
# No emoji: not every machine has a font for them.
_ICONS = {"right": "✓", "wrong": "✗", "failed": "⚠"}

Sample = dict[str, Any]


def browse(job_id: str) -> None:
    """Raises StepserveError."""
    verdicts, sought, page = st.columns([2, 3, 1])
    verdict = verdicts.selectbox("Show", list(_VERDICTS), key="samples_verdict", bind="query-params")
    text = sought.text_input("Only with this text", key="samples_text", bind="query-params")
    number = page.number_input("Page", 1, None, 1, key="samples_page", bind="query-params")
    told = server().eval_samples(job_id, _VERDICTS[verdict], text, offset=PER_PAGE * (int(number) - 1), limit=PER_PAGE)
    samples: list[Sample] = told["samples"]
    if not samples:
        st.info("No sample fits." if told["total"] == 0 else "There are no more.")
        return
    st.caption(f"{told['offset'] + 1} to {told['offset'] + len(samples)} of {told['total']}")
    for sample in samples:
        with st.container(border=True):
            st.caption(harmless(f"{_ICONS[sample['verdict']]} {sample['id']}"))
            st.text(cut(question_of(sample)))
            st.text(cut(f"expected: {sample['target']}"))
            _answer(sample)


def side_by_side(before: str, after: str, ids: Sequence[str], key: str) -> None:
    """What both runs answered to these questions, page by page. Raises StepserveError."""
    if not ids:
        st.info("None.")
        return
    pages = (len(ids) - 1) // PER_PAGE + 1
    number = int(st.number_input(f"Page of {pages}", 1, pages, 1, key=f"compare_page_{key}"))
    shown = ids[PER_PAGE * (number - 1) : PER_PAGE * number]
    runs = [_by_id(job_id, shown) for job_id in (before, after)]
    for name in shown:
        first, second = (run.get(name) for run in runs)
        if first is None or second is None:
            continue
        with st.container(border=True):
            st.text(cut(question_of(first)))
            st.text(cut(f"expected: {first['target']}"))
            left, right = st.columns(2)
            with left:
                _answer(first)
            with right:
                _answer(second)


def question_of(sample: Sample) -> str:
    """What was asked last; earlier turns are examples or the system prompt."""
    asked = sample["input"]
    return asked if isinstance(asked, str) else str(asked[-1]["content"]) if asked else ""


def _by_id(job_id: str, ids: Sequence[str]) -> dict[str, Sample]:
    told = server().eval_samples(job_id, ids=ids, limit=len(ids))
    return {sample["id"]: sample for sample in told["samples"]}


def _answer(sample: Sample) -> None:
    icon = _ICONS[sample["verdict"]]
    st.code(cut(f"{icon} {sample['error'] or sample['prediction']}"), language=None, wrap_lines=True)
    if sample["finish_reason"] == "length":
        st.caption("It was cut off at the longest answer allowed.")
