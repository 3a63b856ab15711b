"""The task of a job, as its config keeps it once it was checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from evals.harness.inspect_ai import InspectAi
from evals.harness.lm_eval import LmEval
from evals.harness.order import HarnessProgram
from evals.harness.request import TaskOptions, TaskSpec
from stepserve.jobs.errors import BadJob
from stepserve.jobs.eval_ports import Harness

PROGRAMS: Final[Mapping[Harness, HarnessProgram]] = {"lm_eval": LmEval(), "inspect": InspectAi()}
TASK = "task"
"""The key of a config that says that an eval runs a task file."""


@dataclass(frozen=True, slots=True)
class StoredTask:
    """What a job's config says of its task (`config.task`), with the digest of its files, once it was checked."""

    harness: Harness
    spec: TaskSpec
    options: TaskOptions
    digest: str

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "StoredTask":
        """Raises BadJob for a row that this program did not write."""
        try:
            said = config[TASK]
            spec = TaskSpec.model_validate(said["spec"])
            options = TaskOptions.model_validate(said["options"])
            harness: Harness = said["harness"]
            PROGRAMS[harness]
        except (KeyError, TypeError, ValidationError) as error:
            raise BadJob(f"its config has no task that this version can run: {error}") from error
        return cls(harness, spec, options, str(said["digest"]))

    def stored(self) -> dict[str, Any]:
        return {
            "harness": self.harness,
            "digest": self.digest,
            "spec": self.spec.model_dump(mode="json"),
            "options": self.options.model_dump(mode="json"),
        }
