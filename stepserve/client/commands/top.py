"""`stepserve top`: traffic, loaded models, cards and jobs on one screen, drawn anew until Ctrl-C."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stepserve.client.client import Client
from stepserve.client.errors import Forbidden, NotFound, StepserveError, Unavailable
from stepserve.client.results import Job
from stepserve.client.terminal import Host, server_at
from stepserve.client.words import duration, moment

_RECENT_S = 10
_SHOWN = 8

Rows = Sequence[Sequence[str]]
Part = tuple[str, Sequence[str], Rows]
"""A title, columns, and rows of one part of the screen."""


def top(
    every_s: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One look, and no more.")] = False,
    host: Host = None,
) -> None:
    """What the server does now, until Ctrl-C; into a pipe one look as lines with tabs."""
    with server_at(host, interrupted="") as server:
        if once or not sys.stdout.isatty():
            for title, columns, rows in look(server):
                print(title)
                for row in (columns, *rows):
                    print("\t".join(row))
            return
        with Live(drawn(look(server)), screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(every_s)
                try:
                    live.update(drawn(look(server)), refresh=True)
                except StepserveError as error:
                    live.update(Text(str(error)), refresh=True)


def look(server: Client) -> list[Part]:
    """Raises StepserveError where the server itself cannot be asked; what is not there, or not for this key, is left
    out.
    """
    health = server.health()
    parts = [_serving(server, health.status, health.active_model), *_traffic(server), *_slots(server), *_cards(server)]
    return [*parts, *_jobs(server)]


def _serving(server: Client, status: str, model: str | None) -> Part:
    since = ""
    with suppress(Forbidden, NotFound, Unavailable):
        since = moment(server.active_model().since)
    return (server.url, ["status", "active model", "since"], [[status, model or "none", since]])


def _traffic(server: Client) -> list[Part]:
    try:
        samples = server.history(_RECENT_S, 1)["samples"]
    except (Forbidden, NotFound, Unavailable):
        return []
    if not samples:
        return []
    now = samples[-1]
    speeds = ", ".join(f"{model} {speed:.0f}" for model, speed in now["tokens_per_s"].items())
    columns = ["requests/s", "running", "waiting", "first token p50", "p99", "tokens/s"]
    row = [
        _number(now["requests_per_s"], ".1f"),
        _number(now["running"], ".0f"),
        _number(now["waiting"], ".0f"),
        duration(now["first_token_p50_s"]),
        duration(now["first_token_p99_s"]),
        speeds,
    ]
    return [("Traffic", columns, [row])]


def _slots(server: Client) -> list[Part]:
    try:
        engines: list[dict[str, Any]] = server.status().get("engines", [])
    except (Forbidden, NotFound, Unavailable):
        return []
    rows = [
        [
            one["model"]["id"],
            "active" if one["active"] else "",
            one["phase"],
            one["health"],
            str(one["in_flight"]),
            str(one["version"]["number"] or ""),
        ]
        for one in engines
    ]
    return [("Loaded models", ["model", "", "phase", "health", "requests", "version"], rows)]


def _cards(server: Client) -> list[Part]:
    try:
        gpu = server.gpu_stats()
    except (Forbidden, NotFound, Unavailable):
        return []
    rows = [
        [
            str(number),
            str(card.get("name") or ""),
            f"{_number(card.get('memory_used_mb'), '.0f')}/{_number(card.get('memory_total_mb'), '.0f')}",
            _number(card.get("utilization_gpu"), ".0f"),
            f"{_number(card.get('power_draw_w'), '.0f')}/{_number(card.get('power_limit_w'), '.0f')}",
            _number(card.get("temperature_gpu"), ".0f"),
        ]
        for number, card in enumerate(gpu.gpus or [gpu.as_json()])
    ]
    return [("Cards", ["card", "name", "MB", "busy %", "W", "°C"], rows)]


def _jobs(server: Client) -> list[Part]:
    try:
        running = server.jobs_page(None, "running", limit=_SHOWN)
        waiting = server.jobs_page(None, "pending", limit=_SHOWN)
    except (Forbidden, NotFound, Unavailable):
        return []
    rows = [_job(job) for job in (*running.jobs, *waiting.jobs)]
    return [(f"Jobs: {running.total} running, {waiting.total} waiting", ["job", "model", "progress", "left", ""], rows)]


def _job(job: Job) -> list[str]:
    progress = f"{job.progress.done}/{job.progress.total}" if job.progress.total is not None else ""
    remark = f"waits for {job.waiting_for}" if job.waiting_for else job.status
    return [job.id, job.model_id or "", progress, duration(job.progress.eta_s), remark]


def drawn(parts: Sequence[Part]) -> RenderableType:
    """Ids and numbers stay in one piece; where the terminal is too narrow, texts are broken."""
    shown: list[RenderableType] = []
    for title, columns, rows in parts:
        one = Table(box=None, pad_edge=False)
        for number, column in enumerate(columns):
            is_whole = not any(" " in row[number] for row in rows)
            one.add_column(Text(column), no_wrap=is_whole, overflow="fold", header_style="dim")
        for row in rows:
            one.add_row(*map(Text, row))
        shown += [Text(title, style="bold"), one, Text("")]
    return Group(*shown)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
