"""Is it well, what serves, how busy is it: drawn anew every two seconds."""

import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import pandas as pd
import streamlit as st

from stepserve.client.errors import Forbidden, StepserveError, Unavailable
from stepserve.client.results import Gpu, Health, JobStats, System
from ui import gauges
from ui.charts import lines
from ui.connection import server, soon, trouble_shown
from ui.format import NOTHING, duration
from ui.gauges import Gauges
from ui.harmless import harmless

_EVERY_S = 2.0
_KEPT = 150  # five minutes
_COLOURS = {"ok": "green", "loading": "blue", "degraded": "orange", "error": "red"}


@dataclass(slots=True)
class Trend:
    """What this visitor has seen since the page was opened."""

    rows: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    requests: float | None = None
    at_s: float = 0.0

    def rate(self, requests: float, now_s: float) -> float | None:
        """Requests a second since the last look; None at the first one and after the server has begun anew."""
        before, passed_s = self.requests, now_s - self.at_s
        self.requests, self.at_s = requests, now_s
        return None if before is None or requests < before or passed_s <= 0 else (requests - before) / passed_s


def show() -> None:
    st.title("Overview")
    _live()


@st.fragment(run_every=_EVERY_S)
def _live() -> None:
    with trouble_shown():
        there = server()
        health, jobs, system, gpu = (
            soon(there.health), soon(there.job_stats), soon(there.system_stats), soon(there.gpu_stats)
        )  # fmt: skip
        metrics = soon(partial(gauges.ask, there))
        _status(health.result(), jobs)
        trend: Trend = st.session_state.setdefault("trend", Trend())
        row: dict[str, float] = {"time": time.time()}
        _traffic(row, trend, metrics)
        _memory(row, system)
        _cards(row, gpu)
        trend.rows.append(row)
        _charts(trend)


def _status(health: Health, stats: "Future[JobStats]") -> None:
    colour = _COLOURS[health.status]
    active, state, uptime, jobs = st.columns([3, 2, 2, 2])  # names of models are long, and so is "23 h 59 min"
    active.metric("Active model", health.active_model or NOTHING, help=health.active_model)
    state.metric("Health", health.status)
    uptime.metric("Up for", duration(health.uptime_seconds))
    with jobs:
        _jobs(stats)
    if health.status != "ok":
        said = (
            health.fault
            or {
                "loading": "A model is being loaded; requests wait or are refused until it is there.",
                "degraded": "Inference goes on; the control process does not answer: models and jobs are out of reach.",
                "error": "No engine serves. The log of api_server on the page System says why.",
            }[health.status]
        )
        st.markdown(f":{colour}[{said}]")
    if health.active_model is None and health.status == "loading":
        st.info("No model is active. Register and activate one on the page Models.", icon=":material/deployed_code:")


def _jobs(asked: "Future[JobStats]") -> None:
    try:
        stats = asked.result()
    except (Forbidden, Unavailable):
        st.metric("Jobs", NOTHING)
        return
    st.metric("Jobs running / waiting", f"{stats.running} / {stats.pending}")


def _traffic(row: dict[str, float], trend: Trend, asked: "Future[Gauges | None]") -> None:
    seen = asked.result()
    rate, running, waiting = st.columns(3)
    per_s = None if seen is None else trend.rate(seen.requests, time.monotonic())
    rate.metric("Requests/s", NOTHING if per_s is None else f"{per_s:.1f}")
    running.metric("Requests running", NOTHING if seen is None else f"{seen.running:.0f}")
    waiting.metric("Requests waiting", NOTHING if seen is None else f"{seen.waiting:.0f}")
    if seen is not None:
        row |= {"running": seen.running, "waiting": seen.waiting} | ({} if per_s is None else {"requests/s": per_s})


def _memory(row: dict[str, float], asked: "Future[System]") -> None:
    try:
        system = asked.result()
    except (Forbidden, Unavailable):
        return
    row |= {"CPU %": 100 * system.cpu_load, "RAM %": system.ram_percent}


def _cards(row: dict[str, float], asked: "Future[Gpu]") -> None:
    gpu = _gpu(asked)
    if gpu is None:
        st.caption("No GPU is seen here, so processor and memory are drawn alone.")
        return
    for index, card in enumerate(gpu.gpus or [gpu.as_json()]):
        total = card.get("memory_total_mb") or 0
        row[f"GPU {index} %"] = card.get("utilization_gpu") or 0.0
        row[f"GPU {index} memory %"] = 100 * (card.get("memory_used_mb") or 0) / total if total else 0.0
        st.caption(
            f"{card.get('name')}: {card.get('temperature_gpu')} °C, {card.get('power_draw_w')} of"
            f" {card.get('power_limit_w')} W, {card.get('memory_used_mb')} of {total} MB"
        )


def _gpu(asked: "Future[Gpu]") -> Gpu | None:
    try:
        return asked.result()
    except Unavailable:
        return None
    except StepserveError as error:
        st.caption(harmless(str(error)))
        return None


def _charts(trend: Trend) -> None:
    table = pd.DataFrame(list(trend.rows))
    table["time"] = pd.to_datetime(table["time"], unit="s", utc=True)
    load, traffic = st.columns(2)
    shares = [name for name in table.columns if name.endswith("%")]
    if shares:
        load.subheader("Load")
        with load:
            lines(table, shares, "%")
    counts = [name for name in ("requests/s", "running", "waiting") if name in table.columns]
    if counts:
        traffic.subheader("Traffic")
        with traffic:
            lines(table, counts, None)
