"""Control alone, with a job that writes samples: `python -m benchmarks.scale_control`, settings in the environment."""

import asyncio
import time
from pathlib import Path
from typing import Any, ClassVar

import uvicorn

from benchmarks.scale_rows import record
from control.app import create_app
from control.routes import datasets, evals
from datagen.kind import DataGenKind
from evals.dataset_store import FileDatasetStore
from evals.judge import AllowedJudges
from evals.kind import EvalKind
from evals.reports import EvalReports
from evals.samples_log import open_samples
from stepserve.jobs.ports import JobContext, JobRequest
from stepserve.process import spare_collector
from stepserve.settings import Settings

_RequestModel = type[JobRequest]
_EVERY_S = 0.1


class WriteRequest(JobRequest):
    per_s: int = 5000


class WritingKind:
    """Until it is cancelled: a log as an eval's, so many samples a second, and its progress."""

    type: ClassVar[str] = "writing"
    route: ClassVar[str] = "/writing"
    request_model: ClassVar[_RequestModel] = WriteRequest

    def check(self, request: JobRequest, _datasets_dir: Path) -> dict[str, Any]:
        return request.model_dump()

    def identity(self, _config: dict[str, Any]) -> dict[str, Any]:
        return {}

    async def run(self, context: JobContext) -> dict[str, Any]:
        started, written = time.monotonic(), 0
        with open_samples(context.run_dir / "samples.jsonl") as log:
            while True:
                due = int((time.monotonic() - started) * context.config["per_s"]) - written
                log.append(record(written + number) for number in range(due))
                written += due
                await context.report(written, None)
                await asyncio.sleep(_EVERY_S)


def main() -> None:
    settings = Settings()
    reports = EvalReports(AllowedJudges())
    routes = [datasets.router_of(FileDatasetStore()), evals.router_of(reports)]
    app = create_app(
        settings, [EvalKind(), DataGenKind(settings.layout), WritingKind()], more_routes=routes, eval_reports=reports
    )
    spare_collector()
    uvicorn.run(app, uds=str(settings.layout.control_socket), access_log=False, log_config=None)


if __name__ == "__main__":
    main()
