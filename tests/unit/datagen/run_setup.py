"""A base directory, an engine in memory and runs on it."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from datagen.kind import DataGenKind
from datagen.request import DataGenRequest
from stepserve.contract import BatchItem, BatchOutput, BatchRequest, BatchResult
from stepserve.jobs.errors import Invalid
from stepserve.jobs.ports import BatchEngine
from stepserve.paths import Layout
from tests.unit.evals.adding_engine import MODEL, AddingEngine, RunContext
from tests.unit.ledger import MemoryLedger

TIMEOUT_S = 240
JOB_ID = "data_gen_20251122_053000_k3f9"


class SayingEngine(AddingEngine):
    """Says what `answer` says; keeps every request."""

    def __init__(self, answer: Callable[[BatchItem], BatchOutput | str]) -> None:
        super().__init__()
        self._answer = answer

    async def generate(self, request: BatchRequest) -> BatchResult:
        self.requests.append(request)
        await asyncio.sleep(0)
        outputs = [self._answer(item) for item in request.items]
        full = [said(output) if isinstance(output, str) else output for output in outputs]
        return BatchResult(model=request.model, digest=self.digest, outputs=full)


def said(text: str, finish_reason: str = "stop") -> BatchOutput:
    return BatchOutput(text=text, finish_reason=finish_reason, prompt_tokens=10, completion_tokens=len(text))


def prompt_of(item: BatchItem) -> str:
    assert item.messages is not None
    return item.messages[-1].content


class RunSetup:
    """`run` makes a job, or goes on with it when called again with the same `job`."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout(base=folder, models=folder / "models")
        self.layout.create()
        self.kind = DataGenKind(self.layout)
        self.ledger = MemoryLedger()

    def check(self, strategy: str, **config: Any) -> dict[str, Any]:
        asked = DataGenRequest(model_id=MODEL.id, strategy=strategy, config=config)
        return self.kind.check(asked, self.layout.datasets)

    def refusal(self, strategy: str, **config: Any) -> str:
        try:
            self.check(strategy, **config)
        except Invalid as error:
            return str(error)
        raise AssertionError("it was not refused")

    def context(self, config: dict[str, Any], engine: BatchEngine, job: str = JOB_ID, **more: Any) -> RunContext:
        run_dir = self.layout.runs / "data_gen" / job
        run_dir.mkdir(parents=True, exist_ok=True)
        context = RunContext(
            config=config, run_dir=run_dir, datasets_dir=self.layout.datasets, adding=AddingEngine(), job_id=job, **more
        )
        context.engine = engine
        context.shards = self.ledger
        return context

    def run(self, engine: BatchEngine, strategy: str, job: str = JOB_ID, **config: Any) -> dict[str, Any]:
        return self.go(self.context(self.check(strategy, **config), engine, job))

    def go(self, context: RunContext) -> dict[str, Any]:
        return awaited(self.kind.run(context))

    def rows(self, folder: str = "train_shards_out") -> list[dict[str, Any]]:
        """Of every shard there, in the order of their names."""
        paths = sorted((self.layout.base / folder).glob("shard_*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]

    def dataset(self, name: str, *questions: str) -> None:
        lines = [json.dumps({"question": question, "answer": "0"}) for question in questions]
        (self.layout.datasets / name).write_text("\n".join(lines) + "\n")


def awaited(coroutine: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT_S))
