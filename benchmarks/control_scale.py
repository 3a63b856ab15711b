"""The control plane of a server that has worked for years: `python -m benchmarks.control_scale`.

A database of a million jobs and ten thousand models, and runs with ten million samples, are made in `--at` (some
4 GB, removed at the end). Control alone runs on them, with no gateway: how long it takes to start, against the start on
an empty database; how long every list and page takes at rest, and while a job writes 5,000 samples a second and its
progress; and while the database is backed up and `stepserve gc` looks. `--postgres`: on a PostgreSQL server that is
started for it, from the wheel that the tests use.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from uuid import uuid4

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.record import Metric, add_to
from benchmarks.scale_rows import ACTIVE, DATASET, FIRST_RUN, Size, fill, job_id
from control.database.database import url_of
from stepserve.settings import Settings
from tests.integration.postgres import postgres_server

LIMIT_MS = 50
_START_S = 1800.0  # a database of a former version is copied and upgraded
_CPUCLOCK_SCHED = 2
_STEPSERVE = str(Path(sys.executable).with_name("stepserve"))
ROUTES = (
    "/jobs", "/jobs?limit=1000", "/jobs?type=eval&status=done", "/jobs?type=data_gen&status=failed",
    "/jobs?text=00012345", "/jobs?offset=500000", "/jobs/stats", "/jobs/stats?type=eval", f"/jobs/{job_id(FIRST_RUN)}",
    "/models", f"/models/{ACTIVE}", "/models/active", "/models/activations", f"/eval/jobs/{job_id(FIRST_RUN)}",
    f"/eval/jobs/{job_id(FIRST_RUN)}/samples", f"/eval/history?dataset={DATASET.name}&limit=100",
    "/eval/history?limit=100", "/datasets", f"/datasets/{DATASET.name}", "/shards?limit=100",
    "/shards?status=free&limit=100",
    "/v1/batches", "/v1/files", "/keys", "/audit", "/webhooks", "/webhooks/deliveries", "/policies",
    "/traffic/requests", "/history?window_s=86400", "/history?window_s=2600000", "/metrics", "/system", "/fleet",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=100, help="runs with files")
    parser.add_argument("--samples", type=int, default=100_000, help="samples of each run")
    parser.add_argument("--per-s", type=int, default=5000, help="samples that the job writes a second")
    parser.add_argument("--rounds", type=int, default=100, help="how often each route is asked; 0: only for its cost")
    parser.add_argument("--only", default="", metavar="TEXT", help="routes that have this in them")
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--at", type=Path, metavar="FOLDER", help="where the files are made (default: a new folder)")
    parser.add_argument("--keep", action="store_true", help="keep what was made in --at, and use it the next time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="put the p99 of every route there too")
    args = parser.parse_args()
    size = Size(args.jobs, args.models, args.runs, args.samples)
    routes = [route for route in ROUTES if args.only in route]
    with contextlib.ExitStack() as stack:
        folder = args.at or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stepserve-scale-")))
        url = None
        if args.postgres:
            url = stack.enter_context(postgres_server()).new_database("scale")
        settings = _settings(folder / "base", url)
        if not (args.keep and settings.layout.eval_runs.exists()):
            started = time.perf_counter()
            asyncio.run(fill(url_of(settings), settings.layout, size))
            print(f"made in {time.perf_counter() - started:.0f} s: {size}, {_size(settings, url)}", flush=True)
        with tempfile.TemporaryDirectory(prefix="stepserve-scale-") as empty:
            bare = _start(_settings(Path(empty) / "base", None))
            print(f"start: {_start(settings)}; on an empty SQLite database {bare}", flush=True)
        metrics = measure(settings, routes, args.rounds, args.per_s, backups=url is None)
    add_to(args.json, metrics)


def measure(settings: Settings, routes: list[str], rounds: int, per_s: int, *, backups: bool) -> list[Metric]:
    name = "postgresql" if settings.database_url else "sqlite"
    with running(settings) as (http, process):
        cpu_ms = {}
        for route in routes:
            cpu_ms[route] = processor_ms(http, process, route)
            print(f"{route}: {cpu_ms[route]:.1f} ms of a processor", flush=True)
        if not rounds:
            return []
        before = asked(http, routes, rounds)
        memory_mb = process.memory_info().rss / 1e6
        job = http.post("/writing/jobs", json={"model_id": ACTIVE, "per_s": per_s}).raise_for_status().json()["job_id"]
        begun = time.monotonic()
        meanwhile = asked(http, routes, rounds)
        state = http.get(f"/jobs/{job}").json()
        written = state["progress"]["done"] / (time.monotonic() - begun)
        print(f"the job wrote {written:,.0f} samples/s ({state['status']}); control's memory: {memory_mb:.0f} MB")
        print_table(cpu_ms, before, meanwhile, f"while a job writes {per_s:,} samples/s")
        if backups:
            upkeep(http, settings)
        http.post(f"/jobs/{job}/cancel")
    return [
        Metric(name=f"control at scale, {name}: {route}, p99 ms", better="lower", rounds=[_quantile(took, 0.99)])
        for route, took in meanwhile.items()
    ]


def asked(http: httpx.Client, routes: list[str], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each answer by route, sorted; routes take turns. A route that is slow is asked less often."""
    took: dict[str, list[float]] = {route: [] for route in routes}
    for number in range(rounds):
        for route in routes:
            if sum(took[route]) > 100 * LIMIT_MS and number >= 5:
                continue
            started = time.perf_counter()
            http.get(route).raise_for_status()
            took[route].append((time.perf_counter() - started) * 1e3)
    return {route: sorted(times) for route, times in took.items()}


def processor_ms(http: httpx.Client, process: psutil.Process, route: str) -> float:
    """What an answer costs control, all its threads and what it does besides, in the median of three. Other programs on
    the machine change nothing of it.
    """
    took = []
    for _ in range(3):
        before = _processor_s(process)
        http.get(route).raise_for_status()
        took.append((_processor_s(process) - before) * 1e3)
    return median(took)


def _processor_s(process: psutil.Process) -> float:
    """Of all its threads, those that have ended too: the CPU-time clock of a process (clock_getcpuclockid)."""
    return time.clock_gettime((~process.pid << 3) | _CPUCLOCK_SCHED)


def print_table(
    cpu_ms: dict[str, float], before: dict[str, list[float]], after: dict[str, list[float]], what: str
) -> None:
    shown = Table("GET", "CPU ms", "p50 ms", "p99 ms", f"p50 ms {what}", "p99 ms", f"at most {LIMIT_MS} ms")
    for route, took in after.items():
        rest = before[route]
        p99 = _quantile(took, 0.99)
        numbers = (_quantile(rest, 0.5), _quantile(rest, 0.99), _quantile(took, 0.5), p99)
        shown.add_row(
            route, f"{cpu_ms[route]:.1f}", *(f"{number:.1f}" for number in numbers), "yes" if p99 <= LIMIT_MS else "no"
        )
    Console(width=140).print(shown)


def upkeep(http: httpx.Client, settings: Settings) -> None:
    """What asks for a page of jobs meanwhile sees."""
    shown = Table("meanwhile", "seconds", "GET /jobs: requests", "p50 ms", "p99 ms", "worst ms")
    base = settings.layout.base
    for what, command in (
        ("stepserve db backup", [_STEPSERVE, "db", "backup", str(base.parent / f"{uuid4().hex}.sqlite")]),
        ("stepserve gc --dry-run", [_STEPSERVE, "gc", "--dry-run", "--json"]),
    ):
        took, started = list[float](), time.perf_counter()
        with subprocess.Popen(command, env=_environment(settings), stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                took += asked(http, ["/jobs"], 1)["/jobs"]
        if process.returncode:
            raise RuntimeError(f"{what} failed")
        took.sort()
        numbers = [f"{_quantile(took, share):.1f}" for share in (0.5, 0.99, 1.0)]
        shown.add_row(what, f"{time.perf_counter() - started:.1f}", str(len(took)), *numbers)
    Console(width=140).print(shown)


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """Control of this base directory, as soon as it answers."""
    socket = settings.layout.control_socket
    socket.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.scale_control"]
    with (
        (settings.layout.base.parent / "control.log").open("wb") as log,
        subprocess.Popen(command, env=_environment(settings), stdout=log, stderr=log) as process,
    ):
        transport = httpx.HTTPTransport(uds=str(socket))
        with httpx.Client(transport=transport, base_url="http://control", timeout=240) as http:
            try:
                _wait(http, process)
                yield http, psutil.Process(process.pid)
            finally:
                process.terminate()


def _wait(http: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < until:
        try:
            http.get("/health").raise_for_status()
        except httpx.TransportError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("control did not start: see control.log")


def _start(settings: Settings) -> str:
    started = time.perf_counter()
    with running(settings) as (_, process):
        return f"{time.perf_counter() - started:.1f} s ({_processor_s(process):.1f} of a processor)"


def _settings(base: Path, url: str | None) -> Settings:
    return Settings.model_validate(
        {"base_dir": base, "install_demo": False, "proof_compute_max_bytes": 0, "database_url": url}
    )


def _environment(settings: Settings) -> dict[str, str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("INFERENCE_")}
    given = {"base_dir": settings.base_dir, "install_demo": False, "proof_compute_max_bytes": 0}
    given |= {"retention__runs_max_age_days": 1}
    if settings.database_url is not None:
        given["database_url"] = settings.database_url.get_secret_value()
    return bare | {f"INFERENCE_{name.upper()}": str(value) for name, value in given.items()}


def _quantile(took: list[float], share: float) -> float:
    return took[min(len(took) - 1, int(share * len(took)))]


def _size(settings: Settings, url: str | None) -> str:
    files = [path.stat().st_size for path in settings.layout.base.rglob("*") if path.is_file()]
    return f"{sum(files) / 1e9:.1f} GB of files" + (" beside PostgreSQL's" if url else "")


if __name__ == "__main__":
    main()
