"""The control plane's routes ask this of data generation: why things did not become examples, what a pipeline would
make, and rows to train and evaluate on of what people said of answers. Types only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from stepserve.contract import ModelRef
from stepserve.jobs.ports import BatchEngine

FeedbackKind = Literal["eval", "dpo", "kto"]


@dataclass(frozen=True, slots=True)
class RejectionQuery:
    """`reason`: of this one alone. `after`: the `next` of the page before."""

    reason: str | None = None
    after: str | None = None
    limit: int = 100


class DataGenReports(Protocol):
    """What can be said of a data generation job from its run's files."""

    async def rejected(self, run_dir: Path, wanted: RejectionQuery) -> dict[str, Any]:
        """A page of what was dropped, in the order of the log. Raises Invalid (`after`), Conflict (no attempts yet)."""
        ...


@dataclass(frozen=True, slots=True)
class PreviewModels:
    """The job's own model, and by id the others that a pipeline asks."""

    own: ModelRef
    others: Mapping[str, ModelRef]


class OpenedPreview(Protocol):
    """A pipeline that could be run. One object is used once."""

    @property
    def models(self) -> Mapping[str, str]:
        """The ids of the models that it asks besides the job's own, and which field of the config names each."""
        ...

    async def rows(self, count: int, engine: BatchEngine, models: PreviewModels) -> dict[str, Any]:
        """The first rows, at most `count`, with what each column came to. Nothing is written.

        Raises Invalid for a template that cannot be worked on, and what `BatchEngine.generate` raises.
        """
        ...


class PipelinePreviews(Protocol):
    def open(self, config: dict[str, Any]) -> OpenedPreview:
        """`config`: of a data generation job with the strategy `pipeline`. Blocks; raises Invalid naming the field."""
        ...


@dataclass(frozen=True, slots=True)
class RatedAnswer:
    """An answer with feedback. `prompt`: turns of `role` and `content`, or text. `rating`: 1 is good, -1 bad."""

    request_id: str
    answered_at: datetime
    model: str
    digest: str
    prompt: list[dict[str, str]] | str
    answer: str
    rating: int
    correction: str | None


class FeedbackRows(Protocol):
    """Rows of a dataset."""

    def rows(self, kind: FeedbackKind, answers: Sequence[RatedAnswer]) -> list[dict[str, Any]]:
        """Of all rated answers to one prompt, the newest first: none where they say nothing for this kind."""
        ...
