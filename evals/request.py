"""What a person asks for (`POST /eval/jobs`), and what is stored once it was checked."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from evals.datasets import DatasetFacts
from evals.error_share import DEFAULT_MAX_ERROR_SHARE
from evals.errors import EvalError
from evals.formats import BadFieldMap, check_field_map
from evals.judge import JudgeSpec
from evals.metrics import Metric, metrics_named, require, scored
from evals.prompts import Prompter, PromptTooLong, UnknownField
from evals.sample import AnswerIs, BrokenLine, Sample
from evals.sandbox import why_no_sandbox
from stepserve.contract import MAX_STOP_TEXTS, BatchSampling
from stepserve.jobs.errors import Invalid
from stepserve.jobs.ports import QUEUE_FIELDS, JobRequest
from stepserve.request_model import RequestModel

_MAX_SEED = 2**63 - 1  # what a torch generator takes
_MAX_SHOTS = 100
MAX_ANSWERS = 256

StopText = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=4096)]


class Misfit(BrokenLine):
    """A sample for which `field` of the request makes no sense."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class EvalOptions(RequestModel):
    """Which questions are asked, and how.

    `field_map` says which of a line's keys are a format's fields (`{"question": "q", "answer": "a"}`). `answer_is` says
    what names the right one of the choices where that is not plain: index, letter or text. `cluster_by` is the key of a
    line that says which questions belong together (a document, a template). `template` is
    the question's text with `{{field}}`; `apply_chat_template` null asks as the format does. Examples for
    `num_fewshot` come from `fewshot_dataset_ref`, else from the dataset itself, chosen by `fewshot_seed`. The job fails
    when a larger share of the questions than `max_error_share` gets an error in place of an answer.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    dataset_ref: Name
    max_samples: Annotated[int, Field(ge=1)] = 1000
    max_error_share: Annotated[float, Field(ge=0, le=1)] = DEFAULT_MAX_ERROR_SHARE
    field_map: dict[str, Name] | None = Field(default=None, min_length=1)
    answer_is: AnswerIs | None = None
    cluster_by: Name | None = None
    system_prompt: str | None = None
    template: Annotated[str, Field(min_length=1, max_length=50_000)] | None = None
    apply_chat_template: bool | None = None
    num_fewshot: Annotated[int, Field(ge=0, le=_MAX_SHOTS)] = 0
    fewshot_dataset_ref: Name | None = None
    fewshot_seed: int = 1234
    judge: JudgeSpec | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] = 1
    max_tokens: Annotated[int, Field(ge=1)] = 256
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0, le=_MAX_SEED)] | None = None  # to vLLM -1 is none
    stop: list[StopText] = Field(default=[], max_length=MAX_STOP_TEXTS)


class EvalJobRequest(EvalOptions, JobRequest):
    """Accuracy and the loss are always worked out, where the dataset has them; `metrics` names what must be known."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    metrics: list[str] = Field(default=["accuracy"], min_length=1)
    per_example_logging: bool = True

    @property
    def sampling(self) -> BatchSampling:
        return BatchSampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop,
            seed=self.seed,
            n=self.n,
        )

    @property
    def prompter(self) -> Prompter:
        """Without its examples."""
        return Prompter(self.system_prompt, self.template, self.apply_chat_template, num_fewshot=self.num_fewshot)

    @property
    def scored_metrics(self) -> list[Metric]:
        return scored(self.metrics)

    @property
    def generates(self) -> bool:
        """Whether an answer in words is wanted, or log-probabilities of choices alone."""
        return any(metric.needs_generation for metric in self.scored_metrics)

    @property
    def scores_choices(self) -> bool:
        return any(metric.place == "choices" for metric in self.scored_metrics)

    def check(self) -> None:
        """What can be seen without the dataset. Raises Invalid naming the field."""
        try:
            require(self.metrics)
        except EvalError as error:
            raise Invalid(f"metrics: {error}") from error
        for metric in self.scored_metrics:
            if metric.place == "program" and (reason := why_no_sandbox()) is not None:
                raise Invalid(f"metrics: {metric.name} runs programs of the model, and {reason}")
        if ("judge" in self.metrics) != (self.judge is not None):
            raise Invalid("judge: the metric `judge` and the field that says who judges go together")
        most = max((metric.k for metric in self.scored_metrics), default=1)
        if most > self.n:
            raise Invalid(f"n: pass@{most} needs at least {most} answers a question, n is {self.n}")
        if self.n > 1 and self.temperature == 0:
            raise Invalid(f"temperature: {self.n} answers a question would all be the same at 0")
        if self.field_map is not None:
            try:
                check_field_map(self.field_map)
            except BadFieldMap as error:
                raise Invalid(f"field_map: {error}") from error
        if self.fewshot_dataset_ref is not None and self.num_fewshot == 0:
            raise Invalid("fewshot_dataset_ref: says where examples come from, but num_fewshot is 0")

    def check_sample(self, sample: Sample) -> None:
        """Raises Misfit for the first field of the request that does not go with the sample."""
        if self.answer_is is not None and not sample.choices:
            raise Misfit("answer_is", f"says which choice is right, but a question of {sample.format} has none here")
        if self.cluster_by is not None and not isinstance(sample.metadata.get(self.cluster_by), str | int):
            raise Misfit("cluster_by", f"names the key {self.cluster_by!r}, and the line has no such text or number")
        for metric in metrics_named(self.metrics):
            reason = metric.misfit(sample)
            if reason is not None:
                raise Misfit("metrics", f"{metric.name} does not fit {sample.format}: {reason}")
        style = self.prompter.style(sample)
        if style == "messages":
            for field, value in (
                ("system_prompt", self.system_prompt),
                ("template", self.template),
                ("num_fewshot", self.num_fewshot or None),
                ("apply_chat_template", self.apply_chat_template),
            ):
                if value is not None:
                    raise Misfit(
                        field, f"goes with questions; this is a conversation ({sample.format}), asked as it is"
                    )
        if style == "completion" and sample.is_prompt and self.template is None and self.system_prompt is not None:
            raise Misfit("system_prompt", f"goes with questions; this is a prompt ({sample.format}), asked as it is")
        try:
            self.prompter.item(sample)
        except (UnknownField, PromptTooLong) as error:
            raise Misfit("template", str(error)) from error


class Asked(BaseModel):
    """What was inferred of how samples are asked; `choices`: what their log-probabilities are of."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    style: str
    stop: list[str]
    choices: str | None
    template_digest: str
    fewshot_dataset: DatasetFacts | None = None


class EvalConfig(EvalJobRequest):
    """The job's config as stored: the request, and what its dataset was found to be."""

    model_config = ConfigDict(extra="ignore")

    dataset: DatasetFacts
    asked: Asked | None = None

    @property
    def sampling(self) -> BatchSampling:
        sampling = super().sampling
        if self.stop or self.asked is None:
            return sampling
        return sampling.model_copy(update={"stop": self.asked.stop})

    def stored(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=set(QUEUE_FIELDS))
