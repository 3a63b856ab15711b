"""inspect-ai: its command line, and where it leaves its log."""

import json
from collections.abc import Mapping
from pathlib import Path

from evals.harness.order import HarnessOrder
from evals.harness.request import TaskOptions, TaskSpec
from stepserve.durable import write_whole
from stepserve.jobs.errors import BadJob

_SERVICE = "stepserve"  # of its provider `openai-api`, which reads STEPSERVE_BASE_URL and STEPSERVE_API_KEY


class InspectAi:
    """Implements evals.harness.order.HarnessProgram."""

    def refusal(self, task: TaskSpec, options: TaskOptions) -> str | None:
        if task.chat:
            return "task.chat: is for lm-eval; inspect-ai always asks chat turns"
        for field in ("num_fewshot", "max_length"):
            if getattr(options, field) is not None:
                return f"{field}: is for lm-eval; a task of inspect-ai says that itself (task.args)"
        return None

    def command(self, order: HarnessOrder) -> list[str]:
        options = order.options
        file = order.file.name if order.task.name is None else f"{order.file.name}@{order.task.name}"
        command = [
            str(order.python), "-m", "inspect_ai", "eval", file,
            "--model", f"openai-api/{_SERVICE}/{order.model.id}",
            "--log-dir", str(order.folder / "out"),
            "--log-format", "json",
            "--display", "plain",
            "--max-connections", str(options.max_connections),
        ]  # fmt: skip
        if order.task.args:
            file_of_args = order.folder / "args.json"
            write_whole(file_of_args, json.dumps(order.task.args), durable=False)
            command += ["--task-config", str(file_of_args)]
        given = {
            "--limit": options.max_samples,
            "--seed": options.seed,
            "--max-tokens": options.max_tokens,
            "--temperature": options.temperature,
            "--top-p": options.top_p,
        }
        for flag, value in given.items():
            if value is not None:
                command += [flag, str(value)]
        return command

    def environment(self, order: HarnessOrder) -> Mapping[str, str]:
        return {"STEPSERVE_BASE_URL": f"{order.url}/v1", "STEPSERVE_API_KEY": order.key}

    def log(self, folder: Path) -> Path:
        found = sorted((folder / "out").rglob("*.json"))
        if not found:
            raise BadJob("inspect has ended without a log: the file has no task")
        if len(found) > 1:
            raise BadJob(f"task.name: the file has {len(found)} tasks, and a run is of one: name it")
        return found[0]
