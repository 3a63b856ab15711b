"""An engine that adds: a real BatchEngine in memory, and the context of a job that runs on it."""

import asyncio
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepserve.contract import AskRequest, AskResult, BatchItem, BatchOutput, BatchRequest, BatchResult, ModelRef
from stepserve.jobs.errors import JobCancelled, ModelNotServed, NotFound
from stepserve.jobs.ports import BatchEngine, CardUse, ShardLedger
from tests.unit.ledger import MemoryLedger

MODEL = ModelRef(id="step-1500", path="/models/step-1500", digest="sha256:aa")
_SUM = re.compile(r"(\d+)\+(\d+)")


def add(item: BatchItem) -> BatchOutput:
    """The right sum, but for these: multiples of 5 are one too high, of 7 cut short, of 11 empty, of 13 fail."""
    text = item.prompt if item.prompt is not None else item.messages[-1].content if item.messages else ""
    found = _SUM.search(text)
    if found is None:
        return BatchOutput(error="no sum in it")
    total = int(found[1]) + int(found[2])
    if total % 13 == 0:
        return BatchOutput(error="prompt is longer than the context")
    answer = "" if total % 11 == 0 else str(total + (total % 5 == 0))
    return BatchOutput(
        text=answer,
        finish_reason="length" if total % 7 == 0 else "stop",
        prompt_tokens=len(text),
        completion_tokens=len(answer),
        latency_s=0.25,
        reference_logprob=None if item.reference is None else -0.1 * total,
        reference_tokens=len(item.reference or ""),
    )


class AddingEngine:
    """Answers at once; keeps every request it was sent."""

    def __init__(self, digest: str = MODEL.digest) -> None:
        self.digest = digest
        self.requests: list[BatchRequest] = []

    async def generate(self, request: BatchRequest) -> BatchResult:
        self.requests.append(request)
        return BatchResult(model=request.model, digest=self.digest, outputs=[add(item) for item in request.items])

    async def ask(self, request: AskRequest) -> AskResult:
        raise AssertionError("evals ask no whole requests")

    @property
    def items(self) -> list[BatchItem]:
        return [item for request in self.requests for item in request.items]


class HeldEngine(AddingEngine):
    """Answers a request when the test lets it: `release` or `fail` by the order in which requests came."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled: list[int] = []
        self._gates: list[asyncio.Future[None]] = []
        self._arrived = asyncio.Condition()

    async def generate(self, request: BatchRequest) -> BatchResult:
        number = len(self._gates)
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gates.append(gate)
        async with self._arrived:
            self._arrived.notify_all()
        try:
            await gate
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        return await super().generate(request)

    async def arrivals(self, count: int) -> None:
        """Returns when `count` requests have come, all told."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self._gates) >= count)

    @property
    def asked(self) -> int:
        return len(self._gates)

    def release(self, number: int) -> None:
        self._gates[number].set_result(None)

    def fail(self, number: int, error: Exception) -> None:
        self._gates[number].set_exception(error)


@dataclass
class RunContext:
    """`cancel_after` set: the first report of at least so many samples done says that the job was cancelled."""

    config: dict[str, Any]
    run_dir: Path
    datasets_dir: Path
    adding: AddingEngine
    model: ModelRef = MODEL
    job_id: str = "eval_20251122_053000_k3f9"
    batch_items: int = 4
    batch_window_items: int = 8
    shards: ShardLedger = field(default_factory=MemoryLedger)
    cancel_after: int | None = None
    reports: list[tuple[int, int | None]] = field(default_factory=list)
    card_use: CardUse = field(default_factory=CardUse)
    others: dict[str, ModelRef] = field(default_factory=dict)
    no_room: bool = False
    engine: BatchEngine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = self.adding

    def window_items(self, model: ModelRef) -> int:
        return self.batch_window_items

    async def used(self) -> CardUse:
        return self.card_use

    async def load_beside(self, model_id: str) -> ModelRef:
        if model_id not in self.others:
            raise NotFound(f"there is no model {model_id!r}")
        if self.no_room:
            raise ModelNotServed(f"there is no room for {model_id}")
        return self.others[model_id]

    async def report(self, done: int, total: int | None) -> None:
        self.reports.append((done, total))
        if self.cancel_after is not None and done >= self.cancel_after:
            raise JobCancelled(self.job_id)
