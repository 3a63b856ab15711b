"""`judge` of a job's config: who marks its examples, by what, and how the judge itself is checked."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from stepserve.request_model import RequestModel


class Judging(RequestModel):
    """A model gives each example a mark from 1 to 5, and those below `min_score` go.

    `model`: the id of a registered model, loaded beside the job's own; None: the job's own. `rubric`: what is looked
    at, a line each; `prompt` is for another wording altogether, with {question} and {answer}. `calibration`: a JSONL
    file in the base directory (`question`, `answer`, `label`: true or false, `good` or `bad`, or a mark) that the judge
    marks before the first example is made; below `min_agreement` with its labels the job fails.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_score: Annotated[float, Field(ge=1, le=5)] = 4.0
    prompt: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    rubric: Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=20)] = Field(
        default=[]
    )
    calibration: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    min_agreement: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.prompt is not None and self.rubric:
            raise ValueError("prompt and rubric do not go together: write the rubric into the prompt")
        if self.min_agreement is not None and self.calibration is None:
            raise ValueError("min_agreement needs a calibration file")
        return self
