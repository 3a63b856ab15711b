"""What upkeep costs those who ask meanwhile, and how long a stop takes: `python -m benchmarks.operations`.

A server at rest on a database with 100,000 jobs and the files of 10,000 runs: how long GET /jobs/stats takes
over HTTP meanwhile, while the database is backed up again and again, and while `stepserve gc` looks, and removes. Then
a server with the demo model and 64 streams, half of which outlast the drain: from SIGTERM to its exit, and how each
stream ended.
"""

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.processes import CHECKPOINT, MODEL_ID, free_port, stepserve
from benchmarks.telemetry import fill
from stepserve.settings import Settings

JOBS = 100_000
RUNS = 10_000
LIMIT_MS = 50
STREAMS = 64
ASKED_EVERY_S = 0.02
_STEPSERVE = str(Path(sys.executable).with_name("stepserve"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drain-s", type=float, default=30.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as folder:
        upkeep(Path(folder))
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as folder:
        stop(Path(folder), args.drain_s)


def upkeep(base: Path) -> None:
    settings = Settings(base_dir=base, install_demo=False)
    settings.layout.create()
    asyncio.run(fill(settings, JOBS))
    with sqlite3.connect(settings.layout.database) as database:
        database.execute("UPDATE jobs SET status = 'done' WHERE status = 'pending'")
    database.close()
    for number in range(RUNS):
        run = settings.layout.eval_runs / f"eval_{number:08d}"
        run.mkdir()
        for name in ("config.json", "metrics.json", "samples.jsonl"):
            (run / name).write_bytes(b"x" * 2000)
    environment = _environment(base, retention__runs_max_bytes=0)
    shown = Table("meanwhile", "requests", "p50 ms", "p99 ms", "worst ms", f"p99 at most {LIMIT_MS} ms")
    with stepserve(base, model_path=CHECKPOINT) as url, httpx.Client(base_url=url, trust_env=False) as http:
        add(shown, "nothing", while_running(http, [sys.executable, "-c", "import time; time.sleep(8)"], environment))
        backups = " && ".join(f"{_STEPSERVE} db backup {base}/backup-{number}.sqlite" for number in range(12))
        add(shown, "12 backups", while_running(http, ["sh", "-c", backups], environment))
        looks = " && ".join([f"{_STEPSERVE} gc --dry-run --json"] * 4)
        add(shown, "4 times gc --dry-run", while_running(http, ["sh", "-c", looks], environment))
        add(shown, f"gc of {RUNS:,} runs", while_running(http, [_STEPSERVE, "gc", "--json"], environment))
        left = sum(1 for _ in settings.layout.eval_runs.iterdir())
        if left:
            raise RuntimeError(f"gc left {left} runs")
    Console().print(shown)


def while_running(http: httpx.Client, command: list[str], environment: dict[str, str]) -> list[float]:
    """Milliseconds of each GET /jobs/stats while the command runs, sorted."""
    took = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            started = time.perf_counter()
            http.get("/jobs/stats").raise_for_status()
            took.append((time.perf_counter() - started) * 1e3)
            time.sleep(ASKED_EVERY_S)
    if process.returncode:
        raise RuntimeError(f"{command} failed")
    return sorted(took)


def add(table: Table, what: str, took: list[float]) -> None:
    p50, p99 = took[len(took) // 2], took[min(len(took) - 1, int(0.99 * len(took)))]
    verdict = "yes" if p99 <= LIMIT_MS else "no"
    table.add_row(what, str(len(took)), f"{p50:.1f}", f"{p99:.1f}", f"{took[-1]:.1f}", verdict)


def stop(base: Path, drain_s: float) -> None:
    environment = _environment(base, drain_timeout_s=drain_s)
    url = f"http://127.0.0.1:{environment['INFERENCE_PORT']}"
    process = subprocess.Popen([_STEPSERVE, "up"], env=environment, stdout=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as http:
            while not _ready(http):
                time.sleep(0.2)
        with ThreadPoolExecutor(STREAMS) as pool:
            begun: list[None] = []
            # The longer ones outlast any drain; the others end within it.
            reading = [pool.submit(read, url, 64 if number % 2 else 1, begun) for number in range(STREAMS)]
            while len(begun) < STREAMS:
                time.sleep(0.05)
            told = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = process.wait(drain_s + 60)
            took_s = time.monotonic() - told
            ended = Counter(each.result(60) for each in reading)
    finally:
        process.kill()
        process.wait()
    limit_s = drain_s + 5
    shown = Table("SIGTERM to exit, s", "at most, s", "exit code", "streams")
    shown.add_row(f"{took_s:.1f}", f"{limit_s:g}", str(code), ", ".join(f"{n} {how}" for how, n in ended.items()))
    Console().print(shown)


def read(url: str, answers: int, begun: list[None]) -> str:
    body = {"model": MODEL_ID, "prompt": "7", "max_tokens": 400, "ignore_eos": True, "stream": True, "n": answers}
    how = "as if complete"
    first = True
    try:
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120, trust_env=False) as answer:
            for line in answer.iter_lines():
                if first:
                    begun.append(None)
                    first = False
                if line == "data: [DONE]":
                    return "finished"
                if line.startswith("data: ") and "error" in json.loads(line[6:]):
                    how = "ended as an error"
    except (httpx.TransportError, json.JSONDecodeError):
        return "ended as an error"
    return how


def _environment(base: Path, **settings: object) -> dict[str, str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("INFERENCE_")}
    given = {"base_dir": base, "port": free_port(), "ui": False} | settings
    return bare | {f"INFERENCE_{name.upper()}": str(value) for name, value in given.items()}


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
