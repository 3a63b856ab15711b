"""From a policy to the requests for its jobs: evals.0, evals.1 …, promotion, data_gen."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from control.access.view import EVERYTHING, View
from control.errors import Invalid, NotFound, ServiceError
from control.models.registry import Registry
from control.policies.request import PolicyRequest
from control.promotion.request import PromotionRequest
from control.promotion.submission import PromotionDesk
from stepserve.contract import ACTIVE_ALIAS
from stepserve.jobs.ports import JobKind, JobRequest
from stepserve.readable import readable

FIRST_EVAL: Final = "evals.0"
PROMOTION: Final = "promotion"
DATA_GEN: Final = "data_gen"
STRATEGY: Final = "fix_eval_failures"
_SOURCE = "source_eval_run_id"

Request = TypeVar("Request", bound=BaseModel)


class Intake(Protocol):
    """Who takes jobs in. Both raise ServiceError, and answer with the job's `job_id`."""

    async def make(self, kind: JobKind, request: JobRequest, key: str | None, view: View) -> dict[str, Any]: ...

    async def promote(self, request: PromotionRequest, key: str | None, view: View) -> dict[str, Any]: ...


def steps_of(policy: PolicyRequest) -> list[str]:
    """In the order in which they are made."""
    steps = [f"evals.{number}" for number in range(len(policy.evals))]
    for step, wanted in ((PROMOTION, policy.promotion), (DATA_GEN, policy.data_gen)):
        if wanted is not None:
            steps.append(step)
    return steps


class Steps:
    def __init__(
        self, kinds: Iterable[JobKind], intake: Intake, desk: PromotionDesk, registry: Registry, datasets_dir: Path
    ) -> None:
        self._kinds = {kind.type: kind for kind in kinds}
        self._intake = intake
        self._desk = desk
        self._registry = registry
        self._datasets_dir = datasets_dir

    async def check_policy(self, name: str, policy: PolicyRequest) -> None:
        """Whether each of its steps could be made of a model as things are now. Raises Invalid naming the field."""
        if not steps_of(policy):
            raise Invalid("evals: there is no eval, promotion or data_gen, so nothing would be made")
        if policy.data_gen is not None and not policy.evals:
            raise Invalid("data_gen: is made of the failures of the first eval, and there are no evals")
        if policy.data_gen is not None and policy.evals[0].get("per_example_logging") is False:
            raise Invalid("evals.0.per_example_logging: data_gen reads what this eval logs")
        for step in steps_of(policy):
            request = self.request_of(step, name, policy, ACTIVE_ALIAS, FIRST_EVAL)
            if (problem := await self.problem_of(step, request, registered=False)) is not None:
                raise Invalid(problem)

    def request_of(
        self, step: str, name: str, policy: PolicyRequest, model_id: str, eval_id: str
    ) -> JobRequest | PromotionRequest:
        """`eval_id`: the first eval's job. Raises Invalid naming the field."""
        if step == PROMOTION:
            given = policy.promotion or {}
            return _read(PromotionRequest, step, given, {}, {"candidate": model_id})
        if step == DATA_GEN:
            given = policy.data_gen or {}
            config = given.get("config", {})
            if not isinstance(config, dict):
                raise Invalid("data_gen.config: is not an object")
            if _SOURCE in config:
                raise Invalid(f"data_gen.config.{_SOURCE}: is filled in, leave it out")
            body = {name: value for name, value in given.items() if name != "config"}
            fixed = {"strategy": STRATEGY, "config": {**config, _SOURCE: eval_id}}
            return _read(self._kind(step).request_model, step, body, {"model_id": model_id, "name": name}, fixed)
        given = policy.evals[int(step.partition(".")[2])]
        return _read(self._kind(step).request_model, step, given, {"name": name}, {"model_id": model_id})

    async def problem_of(
        self, step: str, request: JobRequest | PromotionRequest, *, registered: bool = True
    ) -> str | None:
        """Why the job could not be made now, or None. `registered`: the request's model is a real one.

        What the first eval will find is not known before it is done.
        """
        try:
            if isinstance(request, JobRequest):
                await self._check_models(step, request)
                await asyncio.to_thread(self._kind(step).check, request, self._datasets_dir)
            elif registered:
                await self._desk.config_of(request, EVERYTHING)
            else:
                await self._desk.check(request)
        except ServiceError as error:
            if step == DATA_GEN and str(error).startswith(f"config.{_SOURCE}: "):
                return None
            return f"{step}.{error}"
        return None

    async def make(self, step: str, request: JobRequest | PromotionRequest, key: str) -> str:
        """The job's id: the same one for the same key. Raises ServiceError."""
        if isinstance(request, JobRequest):
            made = await self._intake.make(self._kind(step), request, key, EVERYTHING)
        else:
            made = await self._intake.promote(request, key, EVERYTHING)
        return str(made["job_id"])

    def _kind(self, step: str) -> JobKind:
        kind = self._kinds.get(DATA_GEN if step == DATA_GEN else "eval")
        if kind is None:
            raise Invalid(f"{step}: this server has no jobs of that type")
        return kind

    async def _check_models(self, step: str, request: JobRequest) -> None:
        """Of a data generation: the teacher and the student that it names."""
        if step != DATA_GEN:
            return
        config = getattr(request, "config", {})
        for field, name in (("model_id", request.model_id), ("config.student", config.get("student"))):
            if isinstance(name, str) and name != ACTIVE_ALIAS:
                try:
                    await self._registry.resolve(name)
                except NotFound as error:
                    raise NotFound(f"{field}: {error}") from error


def _read(
    model: type[Request], step: str, given: dict[str, Any], defaults: dict[str, Any], fixed: dict[str, Any]
) -> Request:
    """Raises Invalid naming the field."""
    for field in fixed:
        if field in given:
            raise Invalid(f"{step}.{field}: is filled in, leave it out")
    try:
        return model.model_validate({**defaults, **given, **fixed})
    except ValidationError as error:
        told = [{**one, "loc": (*step.split("."), *one["loc"])} for one in error.errors()]
        raise Invalid(readable(told)) from error
