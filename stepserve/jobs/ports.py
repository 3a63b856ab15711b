"""Between a kind of job and the queue that runs it: what each may ask of the other. Types only, no adapters."""

import builtins
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol

from pydantic import ConfigDict, Field

from stepserve.contract import AskRequest, AskResult, BatchRequest, BatchResult, ModelRef
from stepserve.request_model import RequestModel


class BatchEngine(Protocol):
    """The engine as batch work sees it."""

    async def generate(self, request: BatchRequest) -> BatchResult:
        """Answers every item, in the items' order; a failing item fails alone (`BatchOutput.error`).

        Raises GatewayUnavailable when nothing can answer now (worth a retry), ModelNotServed when the model is not
        in the engine, WrongWeights when it is there with another digest.
        """
        ...

    async def ask(self, request: AskRequest) -> AskResult:
        """Answers whole HTTP requests, in their order; one that is refused fails alone (its `status`).

        Raises as `generate` does.
        """
        ...


ShardState = Literal["allotted", "staged", "published"]


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A shard as the ledger has it; `path` is relative to the base directory."""

    name: str
    path: str
    state: ShardState


class ShardLedger(Protocol):
    """Who names shards, and remembers how far each one came. Every method raises DatabaseUnavailable."""

    async def allot(self, job_id: str, ordinal: int, folder: str, day: str, at_least: int) -> ShardEntry:
        """The job's shard of that ordinal: the present one, or a new one with the next free number of the day.

        `folder` is relative to the base directory; no number lower than `at_least` is given.
        """
        ...

    async def stage(self, name: str, *, rows: int, size_bytes: int, sha256: str) -> None:
        """Its files are whole and durable, aside: from now on only moving them is left to do."""
        ...

    async def publish(self, name: str) -> None:
        """Its files are where readers look."""
        ...


@dataclass(frozen=True, slots=True)
class CardUse:
    """What a job has used of the cards; None where it is not known.

    `gpu_seconds`: time of all cards. `energy`: `joules` and `joules_per_1000_tokens`.
    """

    gpu_seconds: float | None = None
    energy: dict[str, float] | None = None

    def shown(self) -> dict[str, Any]:
        """For a job's result."""
        return {"gpu_seconds": self.gpu_seconds, "energy": self.energy}


class StandaloneContext(Protocol):
    """One attempt at a job that needs no model."""

    job_id: str
    config: dict[str, Any]
    run_dir: Path

    async def report(self, done: int, total: int | None) -> None:
        """Notes progress (cheap: written to the database about once a second); `total` None: nobody knows yet. Raises
        JobCancelled.
        """
        ...


class JobContext(StandaloneContext, Protocol):
    """One attempt at one job."""

    model: ModelRef
    datasets_dir: Path
    batch_items: int
    shards: ShardLedger

    @property
    def engine(self) -> BatchEngine: ...

    def window_items(self, model: ModelRef) -> int:
        """How many items may be asked of a model and not yet answered. It changes as gateways that serve it come and
        go, so ask each time.
        """
        ...

    async def load_beside(self, model_id: str) -> ModelRef:
        """Another registered model, which answers once this returns. Raises NotFound, ModelNotServed (no room now), and
        another ServiceError when it does not load.
        """
        ...

    async def used(self) -> CardUse:
        """Asked at the end: what the job's attempts have used since control started. The same when asked again."""
        ...


class JobRequest(RequestModel):
    """What the body of every POST that makes a job has; a kind adds its own fields. Unknown ones are refused.

    A higher `priority` starts first. `dedupe`: a job that does or did the same is the answer. `when_inactive`: what to
    do while the model is not the active one.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_id: str
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    dedupe: bool = False
    when_inactive: Literal["wait", "switch"] = "wait"


QUEUE_FIELDS: Final = frozenset({"priority", "dedupe", "when_inactive"})
"""Of a JobRequest: the queue's business, not the run's, so not in a job's config."""


class EngineKind(Protocol):
    """A type of job that runs on a model in the engine. `type` is the value of the column and the prefix of the id."""

    type: ClassVar[str]

    async def run(self, context: JobContext) -> dict[str, Any]:
        """Runs, or takes up again, what `context.run_dir` holds; returns the result (JSON values).

        Raises JobError or GatewayUnavailable; anything else is a defect and fails the job with its traceback.
        """
        ...


class JobKind(EngineKind, Protocol):
    """One whose jobs are made by POST {route}/jobs, and how such a request is checked."""

    route: ClassVar[str]
    request_model: ClassVar[builtins.type[JobRequest]]

    def check(self, request: JobRequest, datasets_dir: Path) -> dict[str, Any]:
        """The job's config as stored: the request's fields (JSON values) plus what was worked out. No engine yet.

        Raises Invalid or NotFound naming the field.
        """
        ...

    def identity(self, config: dict[str, Any]) -> dict[str, Any] | None:
        """The part of a config that decides the outcome, with the model's content; None: no two jobs are the same.

        Equal identities mean that one job's result answers the other's request.
        """
        ...


class StandaloneKind(Protocol):
    """A type of job that needs no engine and runs whatever model is active. It defines its own route."""

    type: ClassVar[str]

    async def run(self, context: StandaloneContext) -> dict[str, Any]:
        """As JobKind.run; after HubUnavailable too the job backs off and is tried again."""
        ...
