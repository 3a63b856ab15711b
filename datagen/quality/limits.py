"""Whether a report keeps the limits of its config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from datagen.quality.config import QualityLimits

Report = Mapping[str, Any]

VALUES: Final[Mapping[str, Callable[[Report], float | None]]] = {
    "min_rows": lambda report: report["job"]["rows"],
    "min_accepted_share": lambda report: report["yield"]["accepted_share"],
    "min_verified_share": lambda report: report["job"]["verified"]["share"],
    "min_agreement": lambda report: report["job"]["verified"]["mean_agreement"],
    "min_distinct_2": lambda report: report["job"]["diversity"]["question_distinct_2"],
    "max_same_question_share": lambda report: report["job"]["duplicates"]["same_question_share"],
    "max_near_duplicate_share": lambda report: report["job"]["duplicates"]["near_share"],
    "max_contaminated_share": lambda report: report["job"]["contamination"]["share"],
    "max_source_share": lambda report: report["job"]["sources"]["largest_share"],
    "max_tokens_per_row": lambda report: report["cost"]["tokens_per_row"],
    "max_joules_per_row": lambda report: report["cost"]["joules_per_row"],
}
"""By the name of the limit what it is held against; None: it is not known, and the limit is missed."""


@dataclass(frozen=True, slots=True)
class Checked:
    name: str
    limit: float
    value: float | None

    @property
    def is_kept(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.limit if self.name.startswith("min_") else self.value <= self.limit

    def shown(self) -> dict[str, Any]:
        return {"name": self.name, "limit": self.limit, "value": self.value, "is_kept": self.is_kept}

    def __str__(self) -> str:
        wanted = "at least" if self.name.startswith("min_") else "at most"
        found = "it is not known here" if self.value is None else f"it is {self.value:g}"
        return f"config.quality.limits.{self.name}: {wanted} {self.limit:g} was asked for, {found}"


def checked(limits: QualityLimits, report: Report) -> list[Checked]:
    """Every limit that was given."""
    return [Checked(name, limit, VALUES[name](report)) for name, limit in limits.given().items()]
