"""The control plane's routes ask this of data generation: why things did not become examples, and rows to train and
evaluate on of what people said of answers. Types only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

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
