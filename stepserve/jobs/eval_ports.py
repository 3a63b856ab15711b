"""The control plane's routes ask these of evals: datasets, and reports on evals that are done. Types only."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from stepserve.jobs.ports import JobKind
from stepserve.report.blocks import Document
from stepserve.request_model import RequestModel


class DatasetStore(Protocol):
    """The datasets folder as /datasets shows it."""

    async def listing(self, datasets_dir: Path) -> list[dict[str, Any]]:
        """By name, within seconds; a file that is still being read has no count yet."""
        ...

    async def facts(self, name: str, datasets_dir: Path) -> dict[str, Any]:
        """Raises NotFound, Invalid."""
        ...

    async def versions(self, name: str, datasets_dir: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """A file's facts, and the contents that it has had, newest first. Raises NotFound, Invalid."""
        ...

    async def put(
        self, name: str, body: AsyncIterator[bytes], datasets_dir: Path, *, replace: bool, digest: str | None
    ) -> tuple[dict[str, Any], bool]:
        """The file's facts, and whether it is new. Raises Invalid, Conflict, NoSpace, and what `body` raises."""
        ...

    async def find(self, name: str, datasets_dir: Path) -> Path:
        """The file, or link to one, that is meant. Raises NotFound, Invalid."""
        ...

    async def remove(self, path: Path) -> None:
        """What `find` found; the contents that it had stay known. Raises NotFound when it is gone, Invalid."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingText:
    """A file of training data: JSON lines."""

    name: str
    path: Path


class ContaminationReports(Protocol):
    """How much of a dataset is in training data."""

    async def report(
        self, name: str, datasets_dir: Path, shards: Sequence[TrainingText], against: Sequence[str]
    ) -> dict[str, Any]:
        """`against`: other datasets, by name. Reads all of it. Raises NotFound, Invalid, Conflict."""
        ...


Verdict = Literal["failed", "wrong", "right"]
Harness = Literal["inspect", "lm_eval"]
ExportFormat = Literal["inspect", "lm_eval", "lm_eval_samples"]
"""A log of inspect-ai, or lm-eval's results and samples files."""


@dataclass(frozen=True, slots=True)
class DoneEval:
    """An eval job that is done, as reports need it."""

    job_id: str
    model_id: str
    model_digest: str
    config: dict[str, Any]
    result: dict[str, Any]
    run_dir: Path
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class SampleQuery:
    """Which samples of an eval to show: of one verdict, of these ids, with `text` in question, reference or answer,
    of so many completion tokens, that ended so, with such a score by `metric`.
    """

    verdict: Verdict | None = None
    text: str = ""
    ids: frozenset[str] = frozenset()
    offset: int = 0
    limit: int = 50
    finish_reason: str | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    metric: str | None = None
    min_score: float | None = None
    max_score: float | None = None


class TaskFileJobs(JobKind, Protocol):
    """Task files of other harnesses, and the jobs that run them."""

    @property
    def run_by(self) -> Literal["nobody", "admin", "jobs"]:
        """Whose keys may have them run."""
        ...

    async def listing(self) -> dict[str, Any]:
        """`run_by`, the `files` that can be named, and which `harnesses` are installed."""
        ...


class EvalReports(Protocol):
    """What can be said of evals that are done, without an engine."""

    rescore_model: ClassVar[type[RequestModel]]
    """What `rescore` takes, for the document of all routes."""

    async def compare(self, a: DoneEval, b: DoneEval, metric: str | None) -> dict[str, Any]:
        """Raises Invalid, Conflict (no samples were kept)."""
        ...

    async def rescore(self, done: DoneEval, body: bytes) -> dict[str, Any]:
        """`body` is JSON. Raises Invalid, Conflict (no samples were kept)."""
        ...

    async def samples(
        self,
        done: DoneEval,
        wanted: SampleQuery,
        others: Sequence[DoneEval] = (),
        changed_from: DoneEval | None = None,
    ) -> dict[str, Any]:
        """Those that `flaky` finds among `done` and `others` are marked. `changed_from`: only samples whose verdict was
        another one there. Raises Conflict (no samples were kept), Invalid (a metric that was not measured).
        """
        ...

    async def report(self, done: DoneEval) -> Document:
        """For people to read, with some of its answers where they were kept."""
        ...

    async def flaky(self, done: DoneEval, others: Sequence[DoneEval]) -> dict[str, Any]:
        """The questions whose answers differ between `done` and these runs of the same weights, asked the same.

        Raises Conflict (no samples were kept).
        """
        ...

    async def export(self, done: DoneEval, form: ExportFormat) -> tuple[bytes, str]:
        """The run as a file of another harness, and its name. Raises Conflict (no samples were kept)."""
        ...

    async def take_in(
        self,
        body: bytes,
        harness: Harness,
        metric: str | None,
        *,
        model_id: str,
        digest: str,
        name: str,
        run_dir: Path,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Writes another harness's run to `run_dir` as if it were ours: its config and result. Raises Invalid."""
        ...

    def saturation(self, result: dict[str, Any]) -> Literal["all", "none"] | None:
        """Whether all of an eval's answers are right, or none: then it cannot tell models apart."""
        ...

    def spoilt(self, config: dict[str, Any], result: dict[str, Any]) -> str | None:
        """Why the numbers of an eval that is done say nothing of its model (too many errors), or None."""
        ...

    def series(self, config: dict[str, Any]) -> str:
        """Equal for evals whose numbers may be drawn as one line."""
        ...
