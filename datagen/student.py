"""The model that is to learn from a job's examples, where that is another one than the model that writes them."""

import logging
from dataclasses import dataclass
from typing import Final, Literal, Protocol, runtime_checkable

from stepserve.contract import ModelRef
from stepserve.jobs.errors import BadJob, GatewayUnavailable, ModelNotServed, NotFound, ServiceError
from stepserve.jobs.ports import JobContext

UnsolvedBy = Literal["teacher", "student", "stored answers"]
TEACHER: Final = "teacher"
STUDENT: Final = "student"
STORED: Final = "stored answers"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Student:
    """`digest` is set when it has to be these very weights: the ones whose answers are known."""

    model_id: str
    digest: str | None = None


@runtime_checkable
class Teaching(Protocol):
    """A strategy that makes examples of what another model gets wrong."""

    @property
    def student(self) -> Student | None:
        """None: the job's own model decides."""
        ...

    def learns_of_student(self, unsolved_by: UnsolvedBy) -> None:
        """Before the first attempt: who decides what is unsolved. `stored answers`: what it was asked in the eval."""
        ...


async def find_student(strategy: object, context: JobContext) -> ModelRef | None:
    """The student, loaded beside the job's model; None where that one decides, or the stored answers.

    A student that was named has to be there: raises BadJob, and ModelNotServed while there is no room for it.
    """
    if not isinstance(strategy, Teaching):
        return None
    wanted = strategy.student
    if wanted is None or wanted.digest == context.model.digest or wanted == Student(context.model.id):
        strategy.learns_of_student(TEACHER)
        return None
    try:
        found = await context.load_beside(wanted.model_id)
    except NotFound as error:
        if wanted.digest is None:
            raise BadJob(f"config.student: {error}") from error
        _note(context, wanted, str(error))
    except ModelNotServed as error:
        if wanted.digest is None:
            raise
        _note(context, wanted, str(error))
    except ServiceError as error:
        if type(error) is GatewayUnavailable:  # it says nothing of the student
            raise
        if wanted.digest is None:
            raise BadJob(f"config.student: {wanted.model_id} cannot be asked: {error}") from error
        _note(context, wanted, str(error))
    else:
        if wanted.digest in {None, found.digest}:
            strategy.learns_of_student(STUDENT)
            return found
        _note(context, wanted, "it has other weights now")
    strategy.learns_of_student(STORED)
    return None


def _note(context: JobContext, wanted: Student, why: str) -> None:
    log.info("%s goes by the stored answers of %s: %s", context.job_id, wanted.model_id, why)
