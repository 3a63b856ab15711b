"""What serves, how busy it is, what runs, what went wrong, and what happened: drawn anew every few seconds."""

from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import pandas as pd
import streamlit as st

from stepserve.client.errors import Forbidden, NotFound, StepserveError, Unauthorized, Unavailable
from stepserve.client.results import JobsPage, Model, PastActivation
from ui import card_bars, guide, now, serving_line, timeline
from ui.charts import lines
from ui.connection import server, soon, trouble_shown
from ui.format import NOTHING, milliseconds, percent
from ui.harmless import harmless

_EVERY_S = 3.0
_CHARTS_EVERY_S = 10.0
_LOOKED_BACK = 50  # switches and failed jobs
_RECENT_S = 10  # what a rate of now is taken over
_WINDOWS = {"15 min": 900, "1 h": 3600, "1 d": 86_400, "7 d": 604_800, "30 d": 2_592_000}
_NO_JOBS = JobsPage(jobs=[], total=0)
T = TypeVar("T")
D = TypeVar("D")


def show() -> None:
    st.title("Overview")
    guide.draw()
    _live()
    st.header("What happened")
    st.radio("Time", list(_WINDOWS), index=1, key="overview_window", horizontal=True, bind="query-params")
    _charts()


@st.fragment(run_every=_EVERY_S)
def _live() -> None:
    with trouble_shown():
        there = server()
        health = soon(there.health)
        active, past = soon(there.active_model), soon(partial(there.list_activations, limit=_LOOKED_BACK))
        history = soon(partial(there.history, _RECENT_S, 1))
        lists = [
            soon(partial(there.jobs_page, None, status, limit=_LOOKED_BACK))
            for status in ("running", "pending", "failed")
        ]
        gpu, system = soon(there.gpu_stats), soon(there.system_stats)
        switches = _known(past, list[PastActivation]())
        serving_line.draw(health.result(), _known(active, None), switches)
        _traffic(_known(history, None))
        running, waiting, failed = (_known(page, _NO_JOBS) for page in lists)
        left, right = st.columns(2)
        with left:
            now.draw_jobs(running.jobs, waiting.jobs[::-1], waiting.total)
        with right:
            now.draw_attention(failed.jobs, switches)
        st.header("Machine")
        if (cards := _known(gpu, None)) is not None:
            card_bars.draw(cards, _known(soon(there.list_models), list[Model]()))
        if (seen := _known(system, None)) is not None:
            memory = f"{seen.ram_used_gb:.1f} of {seen.ram_total_gb:.1f} GB of memory"
            st.progress(min(1.0, seen.cpu_load), text=f"Processor {percent(seen.cpu_load)}")
            st.progress(min(1.0, seen.ram_percent / 100), text=memory)


def _known(asked: "Future[T]", otherwise: D) -> T | D:
    """What is not there, or not for this key, is left out; the rest of the page says why the server does not answer."""
    try:
        return asked.result()
    except (Forbidden, NotFound, Unavailable):
        return otherwise
    except Unauthorized:
        raise  # every other part of the page would say the same
    except StepserveError as error:
        st.caption(harmless(str(error)))
        return otherwise


def _traffic(history: dict[str, Any] | None) -> None:
    """Of the last seconds; of the newest sample that the gateway answered in."""
    samples = history["samples"] if history else []
    newest: dict[str, Any] = samples[-1] if samples else {}
    rate, half, most, waiting, tokens = st.columns(5)
    rate.metric("Requests/s", _number(newest.get("requests_per_s")))
    half.metric("First token p50", _first_token(newest.get("first_token_p50_s")))
    most.metric("First token p99", _first_token(newest.get("first_token_p99_s")))
    waiting.metric("Requests waiting", _number(newest.get("waiting"), "{:.0f}"))
    speeds: dict[str, float] = newest.get("tokens_per_s") or {}
    known = newest.get("requests_per_s") is not None
    tokens.metric("Tokens/s", f"{sum(speeds.values()):.0f}" if known else NOTHING)
    if len(speeds) > 1:
        st.caption(harmless("Tokens/s: " + ", ".join(f"{model} {speed:.0f}" for model, speed in speeds.items())))


def _number(value: float | None, form: str = "{:.1f}") -> str:
    return NOTHING if value is None else form.format(value)


def _first_token(seconds: float | None) -> str:
    return NOTHING if seconds is None else milliseconds(1000 * seconds)


@st.fragment(run_every=_CHARTS_EVERY_S)
def _charts() -> None:
    with trouble_shown(again=True):
        there = server()
        window_s = _WINDOWS[st.session_state["overview_window"]]
        asked = soon(partial(there.history, window_s, 300))
        past = soon(partial(there.list_activations, limit=1000))
        promotions = soon(partial(there.jobs_page, "promotion", "done", limit=_LOOKED_BACK))
        history = _known(asked, None)
        if history is None:
            st.caption("The history of traffic needs a key with the scope metrics.")
            return
        earliest = datetime.now(UTC) - timedelta(seconds=window_s)
        switches = _known(past, list[PastActivation]())
        rows = timeline.marks(switches, _known(promotions, _NO_JOBS).jobs, history["marks"], earliest)
        timeline.draw(history["samples"], rows)
        _more(history["samples"])


def _more(samples: list[dict[str, Any]]) -> None:
    if not samples:
        return
    table = pd.DataFrame([_row(sample) for sample in samples])
    table["time"] = pd.to_datetime(table["time"], utc=True)
    left, right = st.columns(2)
    for column, heading, names, unit in (
        (left, "First token and queue", ["first token p50 ms", "first token p99 ms", "waiting"], None),
        (right, "Load", [name for name in table.columns if name.endswith("%")], "%"),
    ):
        with column:
            st.caption(heading)
            lines(table, names, unit)


def _row(sample: dict[str, Any]) -> dict[str, Any]:
    row = {
        "time": sample["at"],
        "first token p50 ms": _in_ms(sample["first_token_p50_s"]),
        "first token p99 ms": _in_ms(sample["first_token_p99_s"]),
        "waiting": sample["waiting"],
        "CPU %": sample["cpu_percent"],
        "RAM %": sample["ram_percent"],
    }
    for number, card in enumerate(sample["cards"]):
        row[f"GPU {number} %"] = card["utilization_gpu"]
    return row


def _in_ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
