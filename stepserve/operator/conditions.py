"""The status of a rollout as people and `kubectl wait` read it: a phase, and three conditions that agree with it."""

from datetime import datetime

from stepserve.operator.rollout import Condition, ConditionType, Phase, RolloutStatus

_MAX_MESSAGE_CHARS = 4096  # a server's message may quote much; Kubernetes' own conditions have 32,768


def with_phase(
    status: RolloutStatus, phase: Phase, reason: str, message: str, generation: int, now: datetime
) -> RolloutStatus:
    """A condition keeps its `lastTransitionTime` while its status is the same. `Superseded` is neither serving nor
    failed: the switch went well, and another model is active now.
    """
    true: ConditionType | None = phase if phase != "Superseded" else None

    def condition(kind: ConditionType) -> Condition:
        before = status.condition(kind)
        says = "True" if kind == true else "False"
        same = before is not None and before.status == says
        return Condition(
            type=kind,
            status=says,
            reason=reason,
            message=message[:_MAX_MESSAGE_CHARS],
            last_transition_time=before.last_transition_time if before is not None and same else now,
            observed_generation=generation,
        )

    conditions = [condition("Progressing"), condition("Serving"), condition("Failed")]
    return status.model_copy(update={"phase": phase, "observed_generation": generation, "conditions": conditions})
