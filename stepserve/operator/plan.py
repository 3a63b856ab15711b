"""What to do next for a rollout: a pure function of the resource and of what the server says, asked before each step.

Every step is begun in the status before it is asked of the server, and a switch is looked for in the server's history
before it is asked for again. So whoever is killed between two steps asks for none twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stepserve.client.results import ActiveModel, PastActivation, Promotion
from stepserve.operator.rollout import Begun, Outcome, Rollout

INTERRUPTED = "interrupted"
"""The error of an activation whose control ended in the middle: nobody has judged the candidate."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server says. `activations`: newest first. `promotion`: the rollout's own, once there is one."""

    active: ActiveModel | None
    activations: Sequence[PastActivation]
    promotion: Promotion | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """Note a new attempt, and look again. `cancels`: the promotion of the attempt before, which nobody wants now."""

    begun: Begun
    cancels: str | None = None


@dataclass(frozen=True, slots=True)
class Switch:
    """Ask for the switch; one to the same model that is under way is joined."""


@dataclass(frozen=True, slots=True)
class Promote:
    """Ask for the promotion. Its idempotency key makes no second one."""


@dataclass(frozen=True, slots=True)
class Wait:
    """For a job of the server."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Settle:
    """The attempt is over. `activation`: the switch that it was."""

    outcome: Outcome
    reason: str
    message: str
    activation: PastActivation | None = None


@dataclass(frozen=True, slots=True)
class Rest:
    """The attempt was over before; only what is active may be another."""


_NOT_PROMOTED = {
    "promoted": "PromotionSuperseded",  # another model became active meanwhile
    "refused": "PromotionRefused",
    "undecided": "PromotionUndecided",
    "rolled_back": "PromotionRolledBack",
}

Step = Begin | Switch | Promote | Wait | Settle | Rest


def next_step(rollout: Rollout, facts: Facts) -> Step:
    status, model = rollout.status, rollout.spec.model
    begun = status.begun
    if begun is None or begun.generation != rollout.generation:
        newest = facts.activations[0].activation_id if facts.activations else 0
        begun_now = Begun(generation=rollout.generation, after_activation=newest)
        return Begin(begun_now, cancels=_open_job(status.job_id, begun))
    if begun.outcome is not None:
        return Rest()
    mine = next(
        (row for row in facts.activations if row.id == model and row.activation_id > begun.after_activation), None
    )
    if facts.active is not None and facts.active.id == model and not _runs(mine):
        return Settle("Activated", "Active", f"{model} serves.", _done(mine))
    if rollout.spec.promotion is not None:
        return _of_promotion(model, facts, mine)
    return _of_switch(model, mine)


def _of_switch(model: str, mine: PastActivation | None) -> Step:
    if mine is None or _runs(mine) or mine.error == INTERRUPTED:
        return Switch()
    if mine.status == "failed":
        return Settle("Failed", "SwitchFailed", mine.error or "The switch failed.", mine)
    return Settle("Activated", "Active", f"{model} was active.", mine)


def _of_promotion(model: str, facts: Facts, mine: PastActivation | None) -> Step:
    job = facts.promotion
    if job is not None and job.status in {"pending", "running"}:
        return Wait("PromotionRunning", _how_far(job))
    if _runs(mine):
        return Wait("SwitchRunning", f"{model} is becoming the active model.")
    if job is None:
        return Promote()
    if job.status != "done":
        return Settle("Failed", "PromotionFailed", f"{job.id} {job.status}: {job.error or 'no reason is known'}")
    if job.decision == "promoted" and mine is not None and mine.status == "done":
        return Settle("Activated", "Active", f"{model} was promoted by {job.id}, and was active.", mine)
    return Settle("Failed", _NOT_PROMOTED.get(job.decision or "", "PromotionFailed"), _why(job), mine)


def _how_far(job: Promotion) -> str:
    done, total = job.progress.done, job.progress.total
    count = f"{done} of {total}" if total is not None else str(done)
    waits = f"; waiting for {job.waiting_for}" if job.waiting_for else ""
    return f"{job.id} is {job.status}: {count} questions{waits}."


def _why(job: Promotion) -> str:
    error = (job.activation or {}).get("error")
    said = [*(job.reasons or []), *([error] if error else [])]
    return f"{job.id}: {' '.join(said) or 'no reason is known'}"


def _runs(row: PastActivation | None) -> bool:
    """Whether it is not written down yet how it went; the model may be active already."""
    return row is not None and row.status == "running"


def _done(row: PastActivation | None) -> PastActivation | None:
    return row if row is not None and row.status == "done" else None


def _open_job(job_id: str | None, begun: Begun | None) -> str | None:
    return job_id if begun is not None and begun.outcome is None else None
