"""The control plane's routes ask this of data generation: why things did not become examples. Types only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


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
