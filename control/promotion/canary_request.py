"""The canary that a promotion may be asked to run before the switch."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from evals.judge import JudgeSpec, check_template
from stepserve.request_model import RequestModel

_LONGEST_S = 24 * 3600.0
_LEAST_REQUESTS = 20  # what the gateway needs before it judges latency and length
_FIELDS = ("question", "prediction")
_Line = Annotated[str, Field(min_length=1, max_length=1000)]
_TEMPLATE = """You judge what an assistant answers.

What it was asked:
{{question}}

Its answer:
{{prediction}}

Is the answer right, and does it do what was asked?{rubric} Reply with one word: CORRECT if so, INCORRECT if not."""


class CanaryJudge(RequestModel):
    """A model of this server that reads a `share` of the candidate's answers and as many of the active model's, below
    interactive traffic. `rubric`: what an answer has to meet, a line each; `template`: another wording altogether, with
    {{question}} and {{prediction}}. `max_drop`: how much smaller the share of good answers may be than the active
    model's. `min_answers`: with fewer of each model that were judged by the end, the canary has shown nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Annotated[str, Field(min_length=1, max_length=500)]
    rubric: Annotated[list[_Line], Field(default_factory=list, max_length=20)]
    template: Annotated[str, Field(min_length=1, max_length=100_000)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_drop: Annotated[float, Field(ge=0, lt=1)] = 0.1
    min_answers: Annotated[int, Field(ge=1, le=1_000_000)] = 20

    @model_validator(mode="before")
    @classmethod
    def _of_this_server(cls, given: object) -> object:
        if isinstance(given, dict) and "url" in given:
            raise ValueError("url: what people ask is not sent to another server; name a model of this one")
        return given

    @field_validator("template")
    @classmethod
    def _that_shows_the_answer(cls, template: str | None) -> str | None:
        if template is not None:
            check_template(template, _FIELDS)  # a live request has no target
        return template

    @model_validator(mode="after")
    def _one_wording(self) -> Self:
        if self.template is not None and self.rubric:
            raise ValueError("template and rubric do not go together: write the rubric into the template")
        return self

    @property
    def spec(self) -> JudgeSpec:
        """As evals know a judge."""
        lines = "".join(f"\n- {_verbatim(line)}" for line in self.rubric)
        rubric = f" It also has to meet these:{lines}\n" if lines else ""
        template = self.template or _TEMPLATE.replace("{rubric}", rubric)
        return JudgeSpec(model=self.model, template=template, max_tokens=self.max_tokens)


def _verbatim(line: str) -> str:
    """Nothing in it is a field."""
    return line.replace("{{", "{ {")


class CanaryRequest(RequestModel):
    """A share of the requests for `active` is answered by the candidate for `seconds`; over a limit it is back at once.

    `sticky`: all requests of a key go the same way, or each is drawn by itself; those that name a session
    (`X-Session-ID`) always go the same way. `shadow`: the active model answers all of them, the candidate is asked the
    same afterwards, and nobody gets its answer. `min_requests`: a candidate that was asked less often by the end has
    shown nothing, and is not switched to; where a ratio is limited the active model needs as many. `judge`: a model
    that reads answers of both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    seconds: Annotated[float, Field(ge=1, le=_LONGEST_S)] = 600.0
    min_requests: Annotated[int, Field(ge=1, le=1_000_000)] = _LEAST_REQUESTS
    max_error_rate: Annotated[float, Field(ge=0, lt=1)] = 0.01
    max_latency_ratio: Annotated[float, Field(ge=1, le=1000)] | None = None
    max_tokens_ratio: Annotated[float, Field(ge=1, le=1000)] | None = None
    sticky: Literal["key", "request"] = "key"
    shadow: bool = False
    judge: CanaryJudge | None = None

    @model_validator(mode="after")
    def _a_shadow_has_no_latency(self) -> Self:
        if self.shadow and self.max_latency_ratio is not None:
            raise ValueError("max_latency_ratio: a shadow is asked below interactive traffic; its latency says nothing")
        return self
