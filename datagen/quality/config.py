"""`quality` of a job's config: which sets its examples are compared with, and the limits that fail it."""

from typing import Annotated, Final

from pydantic import ConfigDict, Field

from stepserve.request_model import RequestModel

NEAR: Final = 0.7
"""A question whose ROUGE-L to a known one is at least this is a near duplicate (Wang et al. 2022, section 2.2)."""
_Share = Annotated[float, Field(ge=0, le=1)]
_Cost = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class QualityLimits(RequestModel):
    """A job that misses one fails, and publishes nothing. None: not limited.

    Shares are of the accepted rows; `min_accepted_share` is accepted rows of accepted and rejected ones.
    `min_distinct_2`: different word pairs of all word pairs in the questions. `min_agreement`: the mean `verify_score`
    of the rows that were verified.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_rows: Annotated[int, Field(ge=1)] | None = None
    min_accepted_share: _Share | None = None
    min_verified_share: _Share | None = None
    min_agreement: _Share | None = None
    min_distinct_2: _Share | None = None
    max_same_question_share: _Share | None = None
    max_near_duplicate_share: _Share | None = None
    max_contaminated_share: _Share | None = None
    max_source_share: _Share | None = None
    max_tokens_per_row: _Cost | None = None
    max_joules_per_row: _Cost | None = None

    def given(self) -> dict[str, float]:
        """Those that are limits."""
        return {name: float(value) for name, value in self.model_dump(exclude_none=True).items()}


class Quality(RequestModel):
    """`known_sets`: names in datasets/ that accepted rows are compared with; None: every dataset there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    known_sets: list[str] | None = None
    limits: QualityLimits = QualityLimits()
