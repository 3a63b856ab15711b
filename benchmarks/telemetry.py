"""What looking costs: `python -m benchmarks.telemetry`. CPU milliseconds, in this process, without a server.

A scrape with four models' series and 10,000 jobs; listing 100 of 100,000 jobs; a sample of eight cards without what the
driver takes; what is noted of a request.
"""

import asyncio
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
from prometheus_client import disable_created_metrics, generate_latest
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert

from control.app import create_app
from control.database.database import Database, url_of
from control.database.tables import JobRow, ModelRow
from control.telemetry.nvml import Nvml
from control.telemetry.sampler import CardSampler
from evals.kind import EvalKind
from gateway.edge.observation import RequestLogMiddleware
from gateway.http.asgi import Message, Receive, Scope, Send
from stepserve.log_file import LogFile
from stepserve.log_handler import BackgroundHandler
from stepserve.logs import json_lines
from stepserve.settings import LogSettings, Settings
from tests.unit.control.recorded_nvml import H200, RecordedNvml

ROUNDS = 30
MODELS = 4
STATUSES = ("done", "done", "done", "failed", "pending", "cancelled")


async def main() -> None:
    disable_created_metrics()  # type: ignore[no-untyped-call]  # as gateway.server does
    shown = Table("what", "CPU ms, median", "worst", "limit")
    with tempfile.TemporaryDirectory() as folder:
        for jobs in (10_000, 100_000):
            base = Path(folder) / str(jobs)
            settings = Settings(base_dir=base, install_demo=False, proof_compute_max_bytes=0)
            settings.layout.create()
            await fill(settings, jobs)
            app = create_app(settings, [EvalKind()], card_reader=Nvml())
            async with app.router.lifespan_context(app):
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://control") as http:
                    if jobs == 10_000:
                        control = await measure(lambda: got(http, "/metrics"))
                        gateway = await measure(series_of_models(MODELS))
                        both = (control[0] + gateway[0], control[1] + gateway[1])
                        add(shown, f"scrape: control's part, {jobs:,} jobs", control, "")
                        add(shown, f"scrape: the gateway's part, {MODELS} models", gateway, "")
                        add(shown, "scrape, whole", both, "15")
                        add(shown, "/system", await measure(lambda: got(http, "/system")), "")
                    else:
                        for query in ("", "&type=eval", "&status=done", "&type=eval&status=failed"):
                            took = await measure(partial(got, http, f"/jobs?limit=100{query}"))
                            add(shown, f"/jobs?limit=100{query} of {jobs:,}", took, "20")
    sampler = CardSampler(Nvml(RecordedNvml(*[H200] * 8)), 1.0)

    async def sample() -> None:
        await sampler.look()

    add(shown, "noting 100 requests (id, metrics, log)", await measure(noted_requests(100)), "")
    add(shown, "our part of a sample of 8 cards (once a second)", await measure(sample), "10")
    Console().print(shown)


async def got(http: httpx.AsyncClient, path: str) -> None:
    (await http.get(path)).raise_for_status()


async def measure(work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """CPU time of the whole process, threads included: median and worst, in milliseconds."""
    await work()
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        await work()
        times.append((time.process_time() - started) * 1e3)
        await asyncio.sleep(0.02)
    return statistics.median(times), max(times)


def add(table: Table, what: str, took: tuple[float, float], limit: str) -> None:
    table.add_row(what, f"{took[0]:.1f}", f"{took[1]:.1f}", limit)


def series_of_models(count: int) -> Callable[[], Awaitable[None]]:
    """vLLM's own collectors, with the labels of so many models and something counted in each."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    from gateway.engine.metrics import ReusingStatLogger
    from gateway.metrics import note_request

    checkpoint = Path(__file__).resolve().parents[1] / "demo" / "checkpoints" / "step-1500"
    kept = []
    asked = ("/v1/chat/completions", "/v1/completions", "/models", "/jobs", "/eval", "/metrics", "/health", "/gpu")
    for number in range(count):
        args = AsyncEngineArgs(model=str(checkpoint), served_model_name=f"model-{number}", enforce_eager=True)
        kept.append(ReusingStatLogger(args.create_engine_config(UsageContext.OPENAI_API_SERVER)))
        for route in asked:
            note_request(route, f"model-{number}" if route.startswith("/v1") else "", 200, "infer", 0.01)

    async def scrape() -> None:
        assert kept
        await asyncio.to_thread(generate_latest)

    return scrape


def noted_requests(count: int) -> Callable[[], Awaitable[None]]:
    """What the outermost layer adds to each request, its log line formatted and written to a file in the background."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None: ...

    async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-model-id", b"model-0")]})
        await send({"type": "http.response.body", "body": b""})

    observed = RequestLogMiddleware(answer, LogSettings())
    logging.getLogger("gateway.requests").setLevel("INFO")
    file = LogFile(Path(tempfile.mkdtemp()) / "log", 1 << 30, 0)
    logging.getLogger("gateway.requests").handlers[:] = [BackgroundHandler(file, json_lines("gateway"))]

    async def note() -> None:
        for _ in range(count):
            scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [(b"host", b"localhost")]}
            await observed(scope, receive, send)

    return note


async def fill(settings: Settings, count: int) -> None:
    """A database with so many jobs, a second apart."""
    database = Database(url_of(settings))
    await database.migrate()
    now = datetime.now(UTC)
    model = {
        "id": "m", "path": "/m", "source": "benchmark", "tags": [], "digest": "sha256:0", "architecture": "A",
        "size_bytes": 1, "created_at": now,
    }  # fmt: skip
    config = {"name": "benchmark", "dataset_ref": "math_eval.jsonl", "metrics": ["accuracy"], "max_samples": 1000}
    result = {"accuracy": 0.5, "total_samples": 1000, "correct": 500, "avg_loss": 1.0, "accuracy_ci95": [0.4, 0.6]}
    async with database.transaction() as session:
        await session.execute(insert(ModelRow), [model])
        for start in range(0, count, 10_000):
            rows = [
                {
                    "id": f"eval_{number:08d}", "type": "eval", "model_id": "m", "model_digest": "sha256:0",
                    "status": STATUSES[number % len(STATUSES)], "config": config, "result": result, "attempt": 1,
                    "progress_done": 1, "created_at": now - timedelta(seconds=count - number),
                }
                for number in range(start, start + 10_000)
            ]  # fmt: skip
            await session.execute(insert(JobRow), rows)
    await database.close()


if __name__ == "__main__":
    asyncio.run(main())
