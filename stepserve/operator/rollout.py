"""A CheckpointRollout as the API server has it: what is wanted, and how far it is. Field names are those of the CRD."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from stepserve.client.calls import InFlight, Method
from stepserve.fleet import RolloutPolicy, Wave

GROUP, VERSION, PLURAL = "stepserve.dev", "v1alpha1", "checkpointrollouts"
OBSERVED_ANNOTATION = f"{GROUP}/observed"
"""What the observer has seen of the server; a change of it has the resource looked at again."""

Phase = Literal["Progressing", "Serving", "Failed", "Superseded"]
Outcome = Literal["Activated", "Failed"]
ConditionType = Literal["Progressing", "Serving", "Failed"]


class SpecRefused(Exception):
    """The text names the field of `spec`."""


class _Stored(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, protected_namespaces=())


class RolloutSpec(_Stored):
    """`promotion`: a body of POST /promotions without `candidate` and `on_pass`; the switch then has to be earned.

    `attempt`: any other number has what failed tried again.
    """

    model: Annotated[str, Field(min_length=1, max_length=200)]
    method: Method = "auto"
    in_flight: InFlight = "finish"
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 300.0
    wave: Wave = "25%"
    policy: RolloutPolicy = "all"
    promotion: dict[str, Any] | None = None
    attempt: Annotated[int, Field(ge=0)] = 0

    @field_validator("promotion")
    @classmethod
    def _leaves_the_switch_to_us(cls, promotion: dict[str, Any] | None) -> dict[str, Any] | None:
        if promotion is not None:
            if ours := sorted(promotion.keys() & {"candidate", "on_pass", "idempotency_key"}):
                raise ValueError(f"{', '.join(ours)} is the operator's: the candidate is spec.model")
            if not promotion.get("suite"):
                raise ValueError("suite is missing: what is to be compared")
        return promotion


class Begun(_Stored):
    """The attempt for one generation of `spec`, written before anything is asked of the server.

    `after_activation`: the newest activation at that time, so that what came of it is among those after it.
    """

    generation: int
    after_activation: int = 0
    outcome: Outcome | None = None


class Condition(_Stored):
    type: ConditionType
    status: Literal["True", "False"]
    reason: str
    message: str = ""
    last_transition_time: datetime
    observed_generation: int


class RolloutStatus(_Stored):
    """`active`, `digest`: what the server serves. The rest but `phase` is of the switch of this rollout."""

    observed_generation: int | None = None
    phase: Phase | None = None
    active: str | None = None
    digest: str | None = None
    previous: str | None = None
    method: str | None = None
    paused_ms: float | None = None
    activation_id: int | None = None
    job_id: str | None = None
    begun: Begun | None = None
    conditions: list[Condition] = []

    def shown(self) -> dict[str, Any]:
        """As a merge patch of the status: what is unset is removed there."""
        return self.model_dump(mode="json", by_alias=True)

    def condition(self, kind: ConditionType) -> Condition | None:
        return next((one for one in self.conditions if one.type == kind), None)


class Rollout(BaseModel):
    """One resource as it was read. `uid` and `generation` are Kubernetes' own: a change of `spec` raises the latter."""

    model_config = ConfigDict(frozen=True)

    uid: str
    generation: int
    spec: RolloutSpec
    status: RolloutStatus

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Raises SpecRefused. A status that this version does not understand counts as none."""
        meta = body["metadata"]
        try:
            spec = RolloutSpec.model_validate(body.get("spec", {}))
        except ValidationError as error:
            first = error.errors()[0]
            raise SpecRefused(f"spec.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        return cls(uid=meta["uid"], generation=meta["generation"], spec=spec, status=status_of(body))


def status_of(body: Mapping[str, Any]) -> RolloutStatus:
    try:
        return RolloutStatus.model_validate(body.get("status") or {})
    except ValidationError:
        return RolloutStatus()
