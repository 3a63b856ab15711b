"""What a person asks for (`POST /promotions`), and what is stored once it was checked."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from control.promotion.canary_request import CanaryRequest
from control.promotion.rule import Rule
from evals.errors import EvalError
from evals.kind import EvalKind
from evals.metrics import known_metric
from evals.request import EvalConfig, EvalJobRequest, EvalOptions, Name
from stepserve.contract import ACTIVE_ALIAS
from stepserve.jobs.errors import Invalid, NotFound
from stepserve.request_model import RequestModel

MAX_SUITE = 32
MAX_SAMPLES = 20_000  # their ids and scores are kept in memory while the job runs

Guard = Literal["truncated", "unparsed", "empty", "loss", "latency", "tokens"]
"""Of answers: cut off by max_tokens, without an answer in them, without any text; nats a token of the reference;
seconds; tokens. `latency` and `tokens` are ratios, the others differences, of the candidate to the baseline."""


LATENCY: Final[Guard] = "latency"
OnPass = Literal["notify", "activate"]
NOTIFY: Final = "notify"
ACTIVATE: Final = "activate"


class SuiteItem(EvalOptions):
    """A metric of a dataset. `margin`: in place of the rule's."""

    metric: Name
    margin: Annotated[float, Field(ge=0, le=0.5)] | None = None


class PromotionRequest(RequestModel):
    """`baseline`: `active`, the id of a model, or that of an eval job that is done. `max_samples`: of each dataset.

    `guards`: what the candidate's answers may have more of than the baseline's; `on_pass`: what a promotion does;
    `canary`: between the decision and the switch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidate: Name
    baseline: Name = ACTIVE_ALIAS
    suite: Annotated[list[SuiteItem], Field(min_length=1, max_length=MAX_SUITE)]
    rule: Rule = Rule()
    guards: dict[Guard, Annotated[float, Field(ge=0, le=1000)]] = Field(default={})
    sequential: bool = True
    max_samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    on_pass: OnPass = NOTIFY
    canary: CanaryRequest | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0

    @model_validator(mode="after")
    def _canary_comes_before_a_switch(self) -> Self:
        if self.canary is not None and not self.switches:
            raise ValueError("canary: needs on_pass `activate`, since it comes before the switch")
        return self

    @property
    def switches(self) -> bool:
        """Whether a promotion makes the candidate active."""
        return self.on_pass == ACTIVATE


class Named(BaseModel):
    """A model as it was when the promotion was asked for."""

    model_config = ConfigDict(frozen=True)

    id: str
    digest: str


class StoredSet(BaseModel):
    """Questions that are asked once, for one or more metrics. `eval` is an EvalConfig.

    `sources`: files in runs/ that may have the baseline's answers to them.
    """

    model_config = ConfigDict(frozen=True)

    eval: dict[str, Any]
    sources: list[str] = []

    @property
    def config(self) -> EvalConfig:
        return EvalConfig.model_validate(self.eval)


class StoredMetric(BaseModel):
    """A metric of the suite; `set` is the number of its StoredSet."""

    model_config = ConfigDict(frozen=True)

    set: int
    metric: str
    margin: float


class PromotionConfig(BaseModel):
    """`baseline_run`: the eval job whose answers are the baseline's, which is then asked nothing.

    `active`: the digest of what was active when the promotion was asked for.
    """

    model_config = ConfigDict(frozen=True)

    candidate: Named
    baseline: Named
    baseline_run: str | None
    active: str | None
    sets: list[StoredSet]
    metrics: list[StoredMetric]
    rule: Rule
    guards: dict[Guard, float]
    sequential: bool
    seed: int
    on_pass: OnPass
    canary: CanaryRequest | None = None

    @property
    def switches(self) -> bool:
        """Whether a promotion makes the candidate active."""
        return self.on_pass == ACTIVATE


def sets_of(
    request: PromotionRequest, evaluations: EvalKind, datasets_dir: Path
) -> tuple[list[StoredSet], list[StoredMetric]]:
    """The suite, each question of it asked once. Blocks. Raises Invalid and NotFound naming the item."""
    groups: dict[str, list[int]] = {}
    for number, item in enumerate(request.suite):
        _check(number, item)
        key = item.model_dump_json(exclude={"metric", "margin"})
        groups.setdefault(key, []).append(number)
    sets: list[StoredSet] = []
    place: dict[int, int] = {}
    for numbers in groups.values():
        first = request.suite[numbers[0]]
        options = first.model_dump(exclude={"metric", "margin"})
        options["max_samples"] = min(first.max_samples, request.max_samples or MAX_SAMPLES, MAX_SAMPLES)
        metrics = list(dict.fromkeys(request.suite[number].metric for number in numbers))
        try:
            asked = EvalJobRequest(model_id=request.candidate, name="promotion", metrics=metrics, **options)
            sets.append(StoredSet(eval=evaluations.check(asked, datasets_dir)))
        except (Invalid, NotFound) as error:
            raise type(error)(f"suite.{numbers[0]}.{error}") from error
        place |= dict.fromkeys(numbers, len(sets) - 1)
    return sets, [
        StoredMetric(
            set=place[number],
            metric=item.metric,
            margin=request.rule.margin if item.margin is None else item.margin,
        )
        for number, item in enumerate(request.suite)
    ]


def _check(number: int, item: SuiteItem) -> None:
    try:
        metric = known_metric(item.metric)
    except EvalError as error:
        raise Invalid(f"suite.{number}.metric: {error}") from error
    if metric.place == "loss":
        raise Invalid(
            f"suite.{number}.metric: {item.metric} has no bound, which a test that may be stopped at any time needs:"
            " name the guard `loss` instead"
        )
    if item.max_samples > MAX_SAMPLES:
        raise Invalid(f"suite.{number}.max_samples: at most {MAX_SAMPLES}")
