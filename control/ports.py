"""What a kind of job (evals, datagen) may ask of control, and what control asks of it. Types only, no adapters."""

from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from switchyard.contract import BatchRequest, BatchResult, ModelRef


class BatchEngine(Protocol):
    """The engine as batch work sees it."""

    async def generate(self, request: BatchRequest) -> BatchResult:
        """Answers every item, in the items' order; a failing item fails alone (`BatchOutput.error`).

        Raises GatewayUnavailable when nothing can answer now (worth a retry), ModelNotServed when the model is not
        in the engine, WrongWeights when it is there with another digest.
        """
        ...


class JobContext(Protocol):
    """One attempt at one job."""

    job_id: str
    model: ModelRef
    config: dict[str, Any]
    run_dir: Path
    datasets_dir: Path
    engine: BatchEngine
    batch_items: int
    batch_window_items: int

    async def report(self, done: int, total: int) -> None:
        """Notes progress (cheap: written to the database about once a second). Raises JobCancelled."""
        ...


class JobKind(Protocol):
    """A type of job: how its request is checked, and how it runs."""

    type: ClassVar[str]

    def check(self, request: BaseModel, datasets_dir: Path) -> dict[str, Any]:
        """The job's config as stored, from a parsed request. Raises Invalid or NotFound naming the field."""
        ...

    async def run(self, context: JobContext) -> dict[str, Any]:
        """Runs or resumes in `context.run_dir`; returns the result. Raises JobError or GatewayUnavailable."""
        ...
