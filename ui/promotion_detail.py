"""One promotion: how it ended, what was asked, what came out and how sure that is, and the questions that decided."""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from stepserve.client.results import Promotion
from ui import promotion_words as words
from ui.connection import server
from ui.format import NOTHING, chance, duration, number, percent, points
from ui.harmless import cut, harmless
from ui.promotion_words import Asked
from ui.visitor import hover, since

_ITEMS_A_PAGE = 10
_ROW_HEIGHT = 50  # pixels
_SHOW = {"success": st.success, "error": st.error, "warning": st.warning, "info": st.info}


def draw(job: Promotion) -> None:
    """Raises StepserveError."""
    tone, said = words.headline(job)
    _SHOW[tone](harmless(said))
    _progress(job)
    asked = Asked.of(job.config)
    st.header("The question")
    if asked is None:
        st.caption("Another version of the server stored it, in a form that this page does not know.")
        st.json(job.config, expanded=1)
        return
    st.markdown(f"**{harmless(asked.question)}**")
    st.markdown("\n".join(f"- {harmless(rule)}" for rule in asked.rules()))
    st.caption(harmless(f"{job.id}, asked for {since(job.created_at)}"), help=hover(job.created_at))
    if job.per_metric:
        _came_out(job, asked)
    if job.items:
        _items(job)
    if job.canary:
        _canary(job.canary)
    if job.activation:
        _switch(job.activation)
    if job.decision is not None:
        _checked(job, asked)


def _progress(job: Promotion) -> None:
    done, total = job.progress.done, job.progress.total
    if job.is_over or not total:
        return
    text = f"{done} of {total} questions at most are answered by both models"
    if job.progress.eta_s is not None:
        text += f"; {duration(job.progress.eta_s)} left, or less"
    st.progress(min(1.0, done / total), text=text)


def _came_out(job: Promotion, asked: Asked) -> None:
    st.header("The result, and how sure it is")
    metrics = job.per_metric or []
    for metric in metrics:
        said = [
            words.outcome(metric),
            words.changes(metric),
            words.certainty(metric, "promoted" if job.canary else job.decision, asked),
            words.effort(metric),
            words.saturated(metric),
        ]
        st.markdown(f"- {harmless(' '.join(one for one in said if one))}")
    _chart(metrics)
    st.caption(
        f"Each line is the range in which the difference lies in {100 * asked.confidence:g} of 100 such promotions."
        " Right of 0 the candidate is better; left of the red mark it is worse than it may be."
    )
    for guard in job.guards or []:
        (st.error if guard["over"] else st.caption)(harmless(words.guard_said(guard)))
    with st.expander("The reasons and numbers as the server gives them"):
        for reason in job.reasons or []:
            st.text(cut(reason))
        st.dataframe(pd.DataFrame([_numbers(metric) for metric in metrics]), hide_index=True)


def _chart(metrics: list[dict[str, Any]]) -> None:
    rows = [
        {
            "what": f"{metric['metric']} on {metric['dataset']}",
            "low": 100 * metric["interval"][0],
            "difference": 100 * metric["difference"],
            "high": 100 * metric["interval"][1],
            "margin": -100 * metric["margin"],
        }
        for metric in metrics
        if metric["interval"] is not None
    ]
    if not rows:
        return
    what = {"field": "what", "type": "nominal", "title": None, "axis": {"labelLimit": 240}}
    where = {"type": "quantitative", "title": "difference to the baseline, in points"}
    spec: dict[str, Any] = {
        "height": _ROW_HEIGHT * (1 + len(rows)),
        "layer": [
            {
                "mark": {"type": "rule", "strokeDash": [4, 4], "aria": False},
                "encoding": {"x": {"datum": 0, **where}},
            },
            {
                "mark": {"type": "tick", "color": "#c0392b", "thickness": 2},
                "encoding": {"y": what, "x": {"field": "margin", **where}},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 3, "aria": False},
                "encoding": {"y": what, "x": {"field": "low", **where}, "x2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 90},
                "encoding": {
                    "y": what,
                    "x": {"field": "difference", **where},
                    "tooltip": [
                        {"field": name, "type": "quantitative", "format": "+.1f"}
                        for name in ("difference", "low", "high")
                    ],
                },
            },
        ],
    }
    st.vega_lite_chart(pd.DataFrame(rows), spec)


def _numbers(metric: dict[str, Any]) -> dict[str, Any]:
    ends = metric["interval"]
    return {
        "dataset": metric["dataset"],
        "metric": metric["metric"],
        "baseline": percent(metric["a"]),
        "candidate": percent(metric["b"]),
        "difference": points(metric["difference"]),
        "from": points(ends[0]) if ends else NOTHING,
        "to": points(ends[1]) if ends else NOTHING,
        "margin": points(-metric["margin"]),
        "p: not better": chance(metric["p"]),
        "p: worse by the margin": chance(metric["p_not_worse"]),
        "p: not worse": chance(metric["p_worse"]),
        "pairs": f"{metric['samples_used']} of {metric['samples_planned']}",
        "left out": metric["left_out"],
    }


def _items(job: Promotion) -> None:
    items = job.items or []
    st.header("Questions that decided")
    pages = (len(items) - 1) // _ITEMS_A_PAGE + 1
    page = 1
    if pages > 1:
        page = int(st.number_input(f"Page of {pages}", 1, pages, 1, key=f"promotions_items_{job.id}"))
    for item in items[_ITEMS_A_PAGE * (page - 1) : _ITEMS_A_PAGE * page]:
        with st.container(border=True):
            st.caption(harmless(f"{item['dataset']} · {item.get('metric') or item.get('guard')} · {item['id']}"))
            st.text(cut(str(item["question"])))
            st.text(cut(f"expected: {item['target']}"))
            for column, side in zip(st.columns(2), ("baseline", "candidate"), strict=True):
                column.caption(f"the {side} answered")
                column.code(cut(str(item[side])), language=None, wrap_lines=True)


def _canary(canary: dict[str, Any]) -> None:
    st.header("The canary")
    tell = {"passed": st.success, "running": st.info}.get(canary["state"], st.warning)
    tell(harmless(words.canary_said(canary)))
    if judged := canary.get("judge"):
        st.text(cut(words.judge_said(judged)))
    for guard in canary.get("guards", []):
        st.progress(guard["evidence"], text=harmless(words.canary_guard_said(guard)))
    rows = [
        {
            "": name,
            "requests": arm["requests"],
            "errors": arm["errors"],
            "time of an answer": duration(arm["latency_s"]),
            "tokens of an answer": number(arm["tokens"]),
            "loss on the active model's answers": number(arm.get("loss")),
        }
        for name, arm in (("candidate", canary["candidate"]), ("active model", canary["active"]))
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)


def _switch(activation: dict[str, Any]) -> None:
    st.header("The switch")
    said = [f"{activation.get('status')}: {activation.get('id')}"]
    if activation.get("paused_ms") is not None:
        said.append(f"requests were paused for {duration(activation['paused_ms'] / 1000)}")
    if activation.get("error"):
        said.append(str(activation["error"]))
    st.text(cut("; ".join(said)))


def _checked(job: Promotion, asked: Asked) -> None:
    with st.expander("How it can be checked, and sent to somebody"):
        st.caption("The whole decision as one file, with its charts inside.")
        st.download_button(
            "Download the report",
            partial(server(patient=True).promotion_report, job.id),
            f"{job.id}.html",
            "text/html",
            key=f"promotions_report_{job.id}",
        )
        st.caption("On the server, this works the decision out again from its files alone:")
        st.code(f"stepserve promote --replay runs/promotion/{job.id}", language=None)
        st.text(cut(f"candidate: {asked.candidate} {asked.candidate_digest}"))
        st.text(cut(f"baseline: {asked.baseline} {asked.baseline_digest}"))
