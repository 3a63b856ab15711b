"""A line of samples.jsonl: one question, what the model answered, and what that is worth."""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict

from evals.sample import LETTERS, AnswerForm, CodeTask, Sample
from stepserve.contract import BatchOutput, Completion, TextScore


class MetricScore(BaseModel):
    """`value` is the mean over the answers where `n` were given, and `values` has one each.

    `correct` (more than half of the answers) is null for a graded metric, `extracted` the first answer's. `stats` are
    counts that a corpus score is made of, `detail` says why a program failed. `error` set: the metric could not be
    worked out here, and value is 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    correct: bool | None = None
    extracted: str | None = None
    parsed: bool = True
    values: list[float] | None = None
    stats: list[float] | None = None
    detail: str | None = None
    error: str | None = None


class SampleRecord(BaseModel):
    """`loss` is in nats per token of the reference; `error` set: the engine could not answer this sample.

    `extracted`, `correct` and `score` are those of the decisive metric; `scores` has every metric by name. `cluster`:
    what the question belongs to together with others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    id: str
    index: int
    input: str | list[dict[str, Any]]
    target: str
    prediction: str
    extracted: str | None
    correct: bool
    score: float
    scores: dict[str, MetricScore] = {}
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    latency_s: float
    loss: float | None
    reference_logprob: float | None
    reference_tokens: int
    model_digest: str
    model_version: int = 0
    error: str | None
    too_long: bool = False
    form: AnswerForm = "text"
    targets: list[str] = []
    choices: list[str] = []
    continuations: list[TextScore] = []
    completions: list[Completion] = []
    code: CodeTask | None = None
    cluster: str | None = None

    @property
    def accepted(self) -> list[str]:
        """Every text that counts as right: at least one."""
        return self.targets or [self.target]

    @property
    def reference_text(self) -> str:
        """Empty where no loss was measured."""
        return self.target if self.reference_tokens else ""

    @property
    def answers(self) -> list[str]:
        """Every answer to the question: one, or as many as were asked for."""
        return [completion.text for completion in self.completions] or [self.prediction]

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


def record_of(sample: Sample, output: BatchOutput, model_digest: str, cluster_by: str | None = None) -> SampleRecord:
    """Not scored yet. A log-probability that is no finite number counts as none: it has no place in a mean."""
    logprob, tokens = output.reference_logprob, output.reference_tokens
    if not output.finish_reason and output.continuations and sample.choices:  # nothing was generated
        right = output.continuations[LETTERS.index(sample.target)]
        logprob, tokens = right.logprob, right.tokens
    if logprob is None or tokens == 0 or not math.isfinite(logprob):
        logprob, tokens = None, 0
    return SampleRecord(
        id=sample.id,
        index=sample.index,
        input=sample.input,
        target=sample.target,
        prediction=output.text,
        extracted=None,
        correct=False,
        score=0.0,
        finish_reason=output.finish_reason,
        prompt_tokens=output.prompt_tokens,
        completion_tokens=output.completion_tokens,
        latency_s=output.latency_s,
        loss=None if logprob is None else (0.0 - logprob) / tokens,
        reference_logprob=logprob,
        reference_tokens=tokens,
        model_digest=model_digest,
        model_version=output.model_version,
        error=output.error,
        too_long=output.too_long,
        form=sample.form,
        targets=list(sample.targets),
        choices=list(sample.choices),
        continuations=output.continuations,
        completions=output.completions,
        code=sample.code,
        cluster=sample.cluster(cluster_by),
    )
