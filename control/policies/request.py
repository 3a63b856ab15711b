"""What a person asks for (`PUT /policies/{name}`)."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from stepserve.request_model import RequestModel

MAX_EVALS = 32


class Match(RequestModel):
    """`id`: a pattern with `*`, `?` and `[…]`; `tags`: the model has to have all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=128)] = "*"
    tags: list[str] = Field(default=[], max_length=32)

    def fits(self, model_id: str, tags: Sequence[str]) -> bool:
        return fnmatchcase(model_id, self.id) and set(self.tags) <= set(tags)


class PolicyRequest(RequestModel):
    """What is made of a model that fits: bodies of the jobs' own routes, without what names the model.

    `evals`: of POST /eval/jobs, without `model_id`; `promotion`: of POST /promotions, without `candidate`. `data_gen`:
    of POST /data_gen/jobs, made of the failures of the first eval when that is done; without `model_id` the registered
    model is the teacher.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: Match
    evals: list[dict[str, Any]] = Field(default=[], max_length=MAX_EVALS)
    promotion: dict[str, Any] | None = None
    data_gen: dict[str, Any] | None = None


class DryRunRequest(RequestModel):
    """`id`: a registered model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=256)]
