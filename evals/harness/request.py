"""What a person asks for (`POST /eval/tasks`)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from stepserve.jobs.eval_ports import Harness
from stepserve.jobs.ports import JobRequest

_MAX_SEED = 2**32 - 1  # what numpy's generator takes, which lm-eval seeds with it

Argument = str | bool | int | FiniteFloat | None


class TaskSpec(BaseModel):
    """`file` lies in the tasks folder. `harness`: by default what the file's name says. `name`: which of the tasks in
    a file of inspect-ai. `args`: what such a task is called with. `metric`: which of the harness's scores counts, by
    default its first one. `chat`: lm-eval asks chat turns with the model's template instead of plain completions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Annotated[str, Field(min_length=1, max_length=1000)]
    harness: Harness | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$")] | None = None
    args: Annotated[
        dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$")], Argument], Field(max_length=100)
    ] = {}
    metric: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    chat: bool = False


class TaskOptions(BaseModel):
    """What is not given is as the task file, or else the harness, has it.

    `max_samples`: from the start. `max_length`: the longest prompt with its answer, in tokens, for lm-eval, which cuts
    longer prompts; by default the model's. `max_connections`: requests at a time.
    """

    max_samples: Annotated[int, Field(ge=1)] | None = None
    num_fewshot: Annotated[int, Field(ge=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=0, le=_MAX_SEED)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_length: Annotated[int, Field(ge=2)] | None = None
    max_connections: Annotated[int, Field(ge=1, le=256)] = 16


class TaskJobRequest(TaskOptions, JobRequest):
    """A task file of lm-eval or inspect-ai, run on a model as an eval job."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    task: TaskSpec
