"""What a person asks for (`POST /eval/jobs`), and what is stored once it was checked."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from control.errors import Invalid
from control.ports import QUEUE_FIELDS, JobRequest
from evals.datasets import DatasetFacts
from evals.scorers import METRICS
from switchyard.contract import BatchSampling

_MAX_SEED = 2**63 - 1  # what a torch generator takes

StopText = Annotated[str, Field(min_length=1)]


class EvalJobRequest(JobRequest):
    """Accuracy and the loss are always worked out; `metrics` names those that must be known."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    dataset_ref: Annotated[str, Field(min_length=1, max_length=4096)]
    metrics: list[str] = Field(default=["accuracy"], min_length=1)
    max_samples: Annotated[int, Field(ge=1)] = 1000
    per_example_logging: bool = True
    system_prompt: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] = 256
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-_MAX_SEED - 1, le=_MAX_SEED)] | None = None
    stop: list[StopText] = Field(default=[])

    @property
    def sampling(self) -> BatchSampling:
        return BatchSampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=self.stop,
            seed=self.seed,
        )

    def check_fits(self, dataset: DatasetFacts) -> None:
        """Raises Invalid naming the field that does not go with the dataset."""
        if self.system_prompt is not None and dataset.format != "question_answer":
            raise Invalid(
                f"system_prompt: goes with question/answer datasets; {dataset.name} is {dataset.format}, asked as it is"
            )

    def check_metrics(self) -> None:
        """Raises Invalid naming the unknown metric and the known ones."""
        for metric in self.metrics:
            if metric not in METRICS:
                raise Invalid(f"metrics: unknown metric {metric!r}; known are {', '.join(METRICS)}")


class EvalConfig(EvalJobRequest):
    """The job's config as stored: the request, and what its dataset was found to be."""

    model_config = ConfigDict(extra="ignore")

    dataset: DatasetFacts

    def stored(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=set(QUEUE_FIELDS))
