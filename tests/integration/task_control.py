"""Control that runs task files, with an lm-eval that is a small program of the tests.

`python -m tests.integration.task_control BASE BODY` is such a control to be killed: it makes a job and says its id.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from control.app import create_app
from control.routes import eval_tasks, evals
from evals.harness.environments import WHOLE, HarnessEnvironments
from evals.harness.kind import TaskFileKind
from evals.kind import EvalKind
from evals.reports import EvalReports
from stepserve.contract import AskItem, AskOutput
from stepserve.settings import TaskFileSettings
from tests.integration.control_plane import PACE, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.unit.control.checkpoint_files import write_checkpoint

FAKE_HARNESS = Path(__file__).parent / "fake_harness"
WRONG = 3  # the number of the question that the model answers wrongly


def install_fake(base: Path) -> None:
    """An environment whose `python -m lm_eval` is the program of the tests."""
    folder = HarnessEnvironments(base / "harnesses").folder_of("lm_eval")
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={FAKE_HARNESS} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / WHOLE).touch()


def write_task(base: Path, name: str = "sums.yaml", **task: Any) -> None:
    (base / "tasks").mkdir(exist_ok=True)
    (base / "tasks" / name).write_text(json.dumps({"questions": 8, **task}))


def answer(item: AskItem) -> AskOutput:
    """To `7+1=`: 8, but for one question."""
    number = int(item.body["prompt"].partition("+")[0])
    text = "no" if number == WRONG else str(number + 1)
    usage = {"prompt_tokens": 4, "completion_tokens": 1}
    return AskOutput(status=200, body={"choices": [{"text": text, "finish_reason": "stop"}], "usage": usage})


def application(base: Path, **task_files: Any) -> FastAPI:
    settings = settings_of(base, task_files=TaskFileSettings(**{"run_by": "jobs", **task_files}))
    tasks = TaskFileKind.at(settings.layout, settings)
    routes = [eval_tasks.router_of(tasks), evals.router_of(EvalReports())]
    return create_app(
        settings, [EvalKind(tasks=tasks)], more_routes=routes, pace=PACE, job_poll_s=0.1, job_backoff_s=0.2
    )


@asynccontextmanager
async def control(base: Path, **task_files: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = application(base, **task_files)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240) as http,
    ):
        yield http


def gateway_of(base: Path) -> FakeGateway:
    gateway = FakeGateway(settings_of(base).layout.gateway_socket)
    gateway.reply = answer
    return gateway


async def add_model(base: Path, http: httpx.AsyncClient) -> None:
    write_checkpoint(base / "models" / "m")
    (await http.post("/models/register", json={"id": "m", "source": "t"})).raise_for_status()
    (await http.post("/models/set_active", json={"id": "m"})).raise_for_status()


async def main(base: Path, body: str) -> None:
    async with control(base) as http:
        await add_model(base, http)
        made = (await http.post("/eval/tasks", content=body)).raise_for_status().json()
        sys.stdout.write(f"{made['job_id']}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
