"""EleutherAI's lm-eval: its command line, and where it leaves its samples."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.harness.order import HarnessOrder
from evals.harness.request import TaskOptions, TaskSpec
from stepserve.jobs.errors import BadJob

_BATCH_SIZE = 16  # prompts of a request of plain completions
_TRIES = 3
_ANSWER_TIMEOUT_S = 3600  # batch work may wait long behind people


class LmEval:
    """Implements evals.harness.order.HarnessProgram."""

    def refusal(self, task: TaskSpec, options: TaskOptions) -> str | None:
        for field, given in (("name", task.name), ("args", task.args)):
            if given:
                return f"task.{field}: is for tasks of inspect-ai; a task file of lm-eval says all in itself"
        return None

    def command(self, order: HarnessOrder) -> list[str]:
        options, path = order.options, "chat/completions" if order.task.chat else "completions"
        model = {
            "model": order.model.id,
            "base_url": f"{order.url}/v1/{path}",
            "tokenizer": order.model.path,
            "tokenizer_backend": "huggingface",
            "num_concurrent": options.max_connections,
            "max_retries": _TRIES,
            "max_length": order.max_length,
            "timeout": _ANSWER_TIMEOUT_S,
        }
        command = [
            str(order.python), "-m", "lm_eval",
            "--model", "local-chat-completions" if order.task.chat else "local-completions",
            "--model_args", json.dumps(model),
            "--tasks", str(order.file),
            "--output_path", str(order.folder / "out"),
            "--log_samples",
            "--batch_size", "1" if order.task.chat else str(min(_BATCH_SIZE, order.max_sequences)),
        ]  # fmt: skip
        if order.task.chat:
            command.append("--apply_chat_template")
        given = {"--limit": options.max_samples, "--num_fewshot": options.num_fewshot, "--seed": options.seed}
        for flag, value in given.items():
            if value is not None:
                command += [flag, str(value)]
        if sampling := _sampling(options):
            command += ["--gen_kwargs", json.dumps(sampling)]
        return command

    def environment(self, order: HarnessOrder) -> Mapping[str, str]:
        return {"OPENAI_API_KEY": order.key}

    def log(self, folder: Path) -> Path:
        found = sorted((folder / "out").rglob("samples_*.jsonl"))
        if not found:
            raise BadJob("lm_eval has ended without samples: the task has none, or they could not be written")
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:10])
            raise BadJob(
                f"task.file: it stands for {len(found)} tasks ({names}), and a run is of one: name their files"
            )
        return found[0]


def _sampling(options: TaskOptions) -> dict[str, Any]:
    named = {"max_gen_toks": options.max_tokens, "temperature": options.temperature, "top_p": options.top_p}
    sampling: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if options.temperature:
        sampling["do_sample"] = True
    return sampling
