"""Questions of an eval with what was answered: wrong ones first, chosen by what they are like, and two runs side by
side.
"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from stepserve.client.calls import Verdict
from ui import paging, sample_dataset
from ui.connection import server
from ui.harmless import cut, harmless
from ui.job_choice import choose_job, eval_title

PER_PAGE = 10
_PAGE = "samples_page"
_VERDICTS: dict[str, Verdict | None] = {
    "all, wrong ones first": None,
    "wrong": "wrong",
    "right": "right",
    "failed in the engine": "failed",
}
# No emoji: not every machine has a font for them.
_ICONS = {"right": "✓", "wrong": "✗", "failed": "⚠"}
_ANY = "any"

Sample = dict[str, Any]


def browse(job_id: str) -> None:
    """Raises StepserveError."""
    chosen = _chosen(job_id)
    told = server(patient=True).eval_samples(job_id, offset=paging.offset_of(_PAGE, PER_PAGE), limit=PER_PAGE, **chosen)
    samples: list[Sample] = told["samples"]
    if not told["total"]:
        st.info("No sample fits.")
        return
    for sample in samples:
        with st.container(border=True):
            before = f" (was {sample['verdict_before']})" if sample.get("verdict_before") else ""
            st.caption(harmless(f"{_ICONS[sample['verdict']]} {sample['id']}{before}"))
            st.text(cut(question_of(sample)))
            st.text(cut(f"expected: {sample['target']}"))
            _answer(sample)
    paging.controls(_PAGE, len(samples), told["total"], PER_PAGE)
    sample_dataset.draw(job_id, chosen, told["total"])


def _chosen(job_id: str) -> dict[str, Any]:
    """What `eval_samples` is asked for. Raises StepserveError."""
    verdicts, sought = st.columns([2, 3])
    verdict = verdicts.selectbox(
        "Show", list(_VERDICTS), key="samples_verdict", on_change=_begin_anew, bind="query-params"
    )
    text = sought.text_input("Only with this text", key="samples_text", on_change=_begin_anew, bind="query-params")
    chosen: dict[str, Any] = {"verdict": _VERDICTS[verdict], "text": text}
    with st.expander("More filters"):
        known = server(patient=True).eval_samples(job_id, limit=1)
        ended, least, most = st.columns(3)
        reasons = [_ANY, *known["finish_reasons"]]
        reason = ended.selectbox("Ended by", reasons, key="samples_ended", on_change=_begin_anew)
        chosen["finish_reason"] = None if reason == _ANY else reason
        chosen["min_tokens"] = least.number_input(
            "At least so many tokens", 0, None, None, key="samples_least", on_change=_begin_anew
        )
        chosen["max_tokens"] = most.number_input(
            "At most so many tokens", 0, None, None, key="samples_most", on_change=_begin_anew
        )
        metrics, score = st.columns([1, 2])
        metric = metrics.selectbox("By metric", [_ANY, *known["metrics"]], key="samples_metric", on_change=_begin_anew)
        if metric != _ANY:
            low, high = score.slider("Score", 0.0, 1.0, (0.0, 1.0), 0.05, key="samples_score", on_change=_begin_anew)
            chosen |= {"metric": metric, "min_score": low, "max_score": high}
        if st.toggle(
            "Only those whose verdict changed", key="samples_changed", on_change=_begin_anew, bind="query-params"
        ):
            chosen["changed_from"] = choose_job("Since", "since", type="eval", status="done", title=eval_title, nth=1)
    return chosen


def _begin_anew() -> None:
    paging.begin_anew(_PAGE)


def side_by_side(before: str, after: str, ids: Sequence[str], key: str) -> None:
    """What both runs answered to these questions, page by page. Raises StepserveError."""
    if not ids:
        st.info("None.")
        return
    pages = (len(ids) - 1) // PER_PAGE + 1
    number = int(st.number_input(f"Page of {pages}", 1, pages, 1, key=f"compare_page_{key}")) if pages > 1 else 1
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
