"""Task files as control sees them: a job of the type `eval` whose questions another harness asks."""

import asyncio
import builtins
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, get_args

from evals.datasets import DatasetFacts
from evals.harness.environments import HarnessEnvironments
from evals.harness.request import TaskJobRequest, TaskOptions
from evals.harness.run import EngineBounds, TaskRun
from evals.harness.stored_task import PROGRAMS, TASK, StoredTask
from evals.harness.task_files import TaskFile, TaskFiles
from evals.request import EvalConfig, EvalOptions
from stepserve.jobs.errors import Invalid
from stepserve.jobs.eval_ports import Harness
from stepserve.jobs.ports import JobContext, JobRequest
from stepserve.paths import Layout
from stepserve.settings import RunBy, Settings, TaskFileSettings


class TaskFileKind:
    """Implements stepserve.jobs.eval_ports.TaskFileJobs: POST /eval/tasks makes such jobs, and EvalKind runs them."""

    type: ClassVar[str] = "eval"
    route: ClassVar[str] = "/eval/tasks"
    request_model: ClassVar[builtins.type[JobRequest]] = TaskJobRequest

    def __init__(
        self,
        files: TaskFiles,
        environments: HarnessEnvironments,
        settings: TaskFileSettings,
        bounds: EngineBounds,
    ) -> None:
        self._files = files
        self._environments = environments
        self._settings = settings
        self._bounds = bounds

    @classmethod
    def at(cls, layout: Layout, settings: Settings) -> "TaskFileKind":
        environments = HarnessEnvironments(layout.harnesses)
        bounds = EngineBounds(settings.engine.max_model_len, settings.max_sequences_per_request)
        return cls(TaskFiles(layout.tasks), environments, settings.task_files, bounds)

    @property
    def run_by(self) -> RunBy:
        return self._settings.run_by

    async def listing(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._listing)

    def check(self, request: JobRequest, datasets_dir: Path) -> dict[str, Any]:
        """The config of an eval whose dataset is the task. Blocks; raises Invalid or NotFound."""
        assert isinstance(request, TaskJobRequest)
        file = self._files.find(request.task.file, request.task.harness)
        options = TaskOptions(**request.model_dump(include=set(TaskOptions.model_fields)))
        refusal = PROGRAMS[file.harness].refusal(request.task, options)
        if refusal is not None:
            raise Invalid(refusal)
        reason = self._environments.why_not(file.harness)
        if reason is not None:
            raise Invalid(f"task.harness: {reason}")
        task = StoredTask(file.harness, request.task, options, file.digest)
        given = options.model_dump(exclude_none=True, include=set(EvalOptions.model_fields))
        config = EvalConfig(
            model_id=request.model_id,
            name=request.name,
            dataset_ref=file.ref,
            max_error_share=1.0,
            dataset=self._facts(file, task),
            **given,
        )
        return config.stored() | {TASK: task.stored()}

    def identity(self, config: dict[str, Any]) -> dict[str, Any]:
        return {"task": config["dataset"]["digest"]}

    async def run(self, context: JobContext) -> dict[str, Any]:
        run = TaskRun(context, self._files, self._environments, self._settings, self._bounds)
        return await run.run()

    def _facts(self, file: TaskFile, task: StoredTask) -> DatasetFacts:
        """The digest is of all that decides which questions are asked and how: evals with the same one are a series.
        How many there are the harness alone knows.
        """
        asked = task.stored() | {"version": self._environments.version(file.harness), "file": file.ref}
        asked["options"] = {name: value for name, value in asked["options"].items() if name != "max_connections"}
        asked["spec"] = {name: value for name, value in asked["spec"].items() if name not in ("file", "harness")}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return DatasetFacts(
            name=file.ref,
            format="input_target",
            samples=0,
            size_bytes=file.size_bytes,
            digest=f"sha256:{digest}",
            ignored_keys=[],
        )

    def _listing(self) -> dict[str, Any]:
        names: tuple[Harness, ...] = get_args(Harness)
        return {
            "run_by": self.run_by,
            "files": [{"file": ref, "harness": harness} for ref, harness in self._files.listing()],
            "harnesses": {
                name: {
                    "version": self._environments.version(name),
                    "installed": self._environments.python(name) is not None,
                }
                for name in names
            },
        }
