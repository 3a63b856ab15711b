"""One step of a rollout at a time: asks the server what there is, does what the plan says, and tells the new status."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stepserve.client import AsyncClient
from stepserve.client.errors import (
    Conflict,
    Failed,
    Forbidden,
    Invalid,
    NotFound,
    Refused,
    StepserveError,
    Unauthorized,
)
from stepserve.client.results import ActiveModel, PastActivation, Promotion
from stepserve.operator.conditions import with_phase
from stepserve.operator.plan import Begin, Facts, Promote, Rest, Settle, Step, Switch, Wait, next_step
from stepserve.operator.rollout import Begun, Outcome, Phase, Rollout, RolloutStatus

_HISTORY = 100  # activations: more than that between two steps has the switch asked for again
_AT_ONCE_S = 0.0


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds until a rollout is looked at again."""

    busy_s: float = 2.0
    """Another switch runs: it is over soon."""
    away_s: float = 5.0
    """The server does not answer."""
    job_s: float = 10.0
    """A promotion takes minutes."""
    person_s: float = 30.0
    """Somebody has to do something: register the model, replace the key."""


@dataclass(frozen=True, slots=True)
class Advance:
    """`again_in_s`: when there is more to do; None: not before something changes."""

    status: RolloutStatus
    again_in_s: float | None
    reason: str
    message: str

    @property
    def phase(self) -> Phase:
        assert self.status.phase is not None
        return self.status.phase


class Driver:
    """`client` must not ask again by itself: what did not come is looked for in the history first."""

    def __init__(
        self,
        client: AsyncClient,
        pauses: Pauses | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC).replace(microsecond=0),
    ) -> None:
        self._client = client
        self._pauses = pauses or Pauses()
        self._now = now

    async def advance(self, rollout: Rollout) -> Advance:
        """At most one request that changes something. Blocks for as long as a switch takes. Raises nothing of the
        server's: its message becomes the status.
        """
        status = rollout.status
        try:
            facts = await self._facts(rollout)
            serving = facts.active
            seen = {"active": serving.id if serving else None, "digest": serving.digest if serving else None}
            status = status.model_copy(update=seen)
            return await self._take(next_step(rollout, facts), rollout, status)
        except StepserveError as error:
            return self._trouble(error, rollout, status)

    async def active(self) -> ActiveModel | None:
        """Raises StepserveError."""
        try:
            return await self._client.active_model()
        except NotFound:
            return None

    async def _facts(self, rollout: Rollout) -> Facts:
        """The history is read before what is active, so that a switch that ends meanwhile is not overlooked."""
        status, begun = rollout.status, rollout.status.begun
        activations: list[PastActivation] = []
        promotion: Promotion | None = None
        if begun is None or begun.outcome is None or begun.generation != rollout.generation:
            if status.job_id is not None and begun is not None and begun.generation == rollout.generation:
                promotion = await self._client.get_promotion(status.job_id)
            activations = await self._client.list_activations(_HISTORY)
        return Facts(await self.active(), activations, promotion)

    async def _take(self, step: Step, rollout: Rollout, status: RolloutStatus) -> Advance:
        match step:
            case Begin():
                return await self._begin(step, rollout, status)
            case Switch():
                return await self._switch(rollout, status)
            case Promote():
                return await self._promote(rollout, status)
            case Wait():
                return self._progressing(rollout, status, step.reason, step.message, self._pauses.job_s)
            case Settle():
                return self._settled(step, rollout, status)
            case Rest():
                return self._rests(rollout, status)

    async def _begin(self, step: Begin, rollout: Rollout, status: RolloutStatus) -> Advance:
        if step.cancels is not None:
            with contextlib.suppress(Conflict, NotFound):  # it is over, or the server has forgotten it
                await self._client.cancel_job(step.cancels)
        fresh: dict[str, Any] = {"begun": step.begun, "job_id": None, "activation_id": None}
        fresh |= {"previous": None, "method": None, "paused_ms": None}
        status = status.model_copy(update=fresh)
        return self._progressing(rollout, status, "Beginning", f"{rollout.spec.model} is next.", _AT_ONCE_S)

    async def _switch(self, rollout: Rollout, status: RolloutStatus) -> Advance:
        spec = rollout.spec
        try:
            await self._client.set_active_model(
                spec.model,
                in_flight=spec.in_flight,
                timeout_s=spec.timeout_seconds,
                method=spec.method,
                wave=spec.wave,
                policy=spec.policy,
            )
        except (Failed, Invalid) as error:
            return self._settled(Settle("Failed", "SwitchFailed", error.detail), rollout, status)
        return self._progressing(rollout, status, "Switched", f"{spec.model} was switched to.", _AT_ONCE_S)

    async def _promote(self, rollout: Rollout, status: RolloutStatus) -> Advance:
        asked = dict(rollout.spec.promotion or {})
        suite = asked.pop("suite", [])
        asked |= {"on_pass": "activate"}
        key = f"checkpointrollout-{rollout.uid}-{rollout.generation}"
        try:
            made = await self._client.promote(rollout.spec.model, suite, idempotency_key=key, **asked)
        except (Invalid, Failed) as error:
            return self._settled(Settle("Failed", "PromotionFailed", error.detail), rollout, status)
        status = status.model_copy(update={"job_id": made.job_id})
        return self._progressing(
            rollout, status, "PromotionRunning", f"{made.job_id} compares it with what serves.", self._pauses.busy_s
        )

    def _settled(self, step: Settle, rollout: Rollout, status: RolloutStatus) -> Advance:
        row = step.activation
        if row is not None:
            told = {"activation_id": row.activation_id, "previous": row.previous}
            status = status.model_copy(update=told | {"method": row.method, "paused_ms": row.paused_ms})
        return self._over(step.outcome, step.reason, step.message, rollout, status)

    def _rests(self, rollout: Rollout, status: RolloutStatus) -> Advance:
        """What failed stays so, with its reason, unless the model came to serve in another way."""
        outcome = status.begun.outcome if status.begun else None
        if outcome == "Failed" and not _serves(rollout, status):
            before = status.condition("Failed")
            reason, message = (before.reason, before.message) if before else ("SwitchFailed", "No reason is known.")
            return self._over("Failed", reason, message, rollout, status)
        return self._over("Activated", "Active", f"{rollout.spec.model} serves.", rollout, status)

    def _over(self, outcome: Outcome, reason: str, message: str, rollout: Rollout, status: RolloutStatus) -> Advance:
        phase: Phase = "Failed" if outcome == "Failed" else "Serving"
        if outcome == "Activated" and not _serves(rollout, status):
            phase, reason = "Superseded", "Superseded"
            message = f"{status.active or 'No model'} is active now; a change of spec brings {rollout.spec.model} back."
        begun = (status.begun or Begun(generation=rollout.generation)).model_copy(update={"outcome": outcome})
        status = status.model_copy(update={"begun": begun})
        status = with_phase(status, phase, reason, message, rollout.generation, self._now())
        return Advance(status, None, reason, message)

    def _progressing(
        self, rollout: Rollout, status: RolloutStatus, reason: str, message: str, again_in_s: float
    ) -> Advance:
        status = with_phase(status, "Progressing", reason, message, rollout.generation, self._now())
        return Advance(status, again_in_s, reason, message)

    def _trouble(self, error: StepserveError, rollout: Rollout, status: RolloutStatus) -> Advance:
        """What may pass. A rollout that is over keeps what it was: the server was not there to say otherwise."""
        message = error.detail if isinstance(error, Refused) else str(error)
        match error:
            case NotFound():
                reason, again_in_s = "NotFound", self._pauses.person_s
            case Unauthorized() | Forbidden():
                reason, again_in_s = "KeyRefused", self._pauses.person_s
            case Refused():
                reason, again_in_s = "ServerBusy", self._pauses.busy_s
            case _:
                reason, again_in_s = "ServerAway", self._pauses.away_s
        begun = status.begun
        if begun is not None and begun.generation == rollout.generation and begun.outcome is not None:
            return Advance(status, again_in_s, reason, message)
        return self._progressing(rollout, status, reason, message, again_in_s)


def refused(status: RolloutStatus, generation: int, message: str, now: datetime) -> RolloutStatus:
    """Of a spec that cannot be read, which the CRD's schema lets no one write: an older CRD may."""
    return with_phase(status, "Failed", "InvalidSpec", message, generation, now)


def _serves(rollout: Rollout, status: RolloutStatus) -> bool:
    return status.active == rollout.spec.model
