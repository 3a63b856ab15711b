"""What is done next for a rollout, whatever was lost on the way."""

from typing import Any

import pytest

from stepserve.client.results import ActiveModel, PastActivation, Promotion
from stepserve.operator.plan import Begin, Facts, Promote, Rest, Settle, Step, Switch, Wait, next_step
from stepserve.operator.rollout import Begun, Rollout, RolloutSpec, RolloutStatus

PROMOTION = {"suite": [{"dataset_ref": "sums", "metric": "numeric"}]}
OPEN = Begun(generation=2, after_activation=7)


def rollout(begun: Begun | None = OPEN, job_id: str | None = None, **spec: Any) -> Rollout:
    status = RolloutStatus(begun=begun, job_id=job_id)
    return Rollout(uid="u", generation=2, spec=RolloutSpec(model="new", **spec), status=status)


def facts(*activations: PastActivation, active: str = "old", promotion: Promotion | None = None) -> Facts:
    return Facts(ActiveModel(id=active, digest=active), activations, promotion)


def activation(number: int, status: str, model: str = "new", error: str | None = None) -> PastActivation:
    return PastActivation(activation_id=number, id=model, status=status, error=error)


def promotion(status: str, decision: str | None = None, **more: Any) -> Promotion:
    return Promotion.model_validate(
        {"id": "promotion_1", "type": "promotion", "status": status, "decision": decision, **more}
    )


@pytest.mark.parametrize("before", [None, Begun(generation=1), Begun(generation=1, outcome="Failed")])
def test_a_change_of_spec_begins_anew_after_the_newest_activation(before: Begun | None) -> None:
    step = next_step(rollout(before), facts(activation(9, "failed"), activation(8, "done", "old")))
    assert step == Begin(Begun(generation=2, after_activation=9))


def test_a_promotion_that_was_under_way_is_cancelled_by_a_change_and_one_that_is_over_is_not() -> None:
    step = next_step(rollout(Begun(generation=1), job_id="promotion_1"), facts())
    assert isinstance(step, Begin)
    assert step.cancels == "promotion_1"
    step = next_step(rollout(Begun(generation=1, outcome="Activated"), job_id="promotion_1"), facts())
    assert isinstance(step, Begin)
    assert step.cancels is None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], Switch),
        ([activation(7, "failed")], Switch),  # of an earlier attempt
        ([activation(8, "done", "other")], Switch),
        ([activation(8, "running")], Switch),  # which joins it
        ([activation(8, "failed", error="interrupted")], Switch),
        ([activation(8, "failed", error="its proof differs")], Settle),
        ([activation(9, "done", "other"), activation(8, "done")], Settle),
    ],
)
def test_a_switch_is_looked_for_before_it_is_asked_for(rows: list[PastActivation], expected: type[Step]) -> None:
    assert isinstance(next_step(rollout(), facts(*rows)), expected)


def test_a_model_that_serves_already_is_not_switched_to() -> None:
    for wanted in (rollout(), rollout(promotion=PROMOTION)):
        assert next_step(wanted, facts(active="new")) == Settle("Activated", "Active", "new serves.")


def test_a_model_that_serves_before_its_switch_is_written_down_is_waited_for() -> None:
    becoming = facts(activation(8, "running"), active="new")
    assert next_step(rollout(), becoming) == Switch()
    assert next_step(rollout(promotion=PROMOTION), becoming) == Wait(
        "SwitchRunning", "new is becoming the active model."
    )
    row = activation(8, "done")
    assert next_step(rollout(), facts(row, active="new")) == Settle("Activated", "Active", "new serves.", row)


def test_what_failed_says_why_and_is_not_tried_again() -> None:
    row = activation(8, "failed", error="its proof differs")
    assert next_step(rollout(), facts(row)) == Settle("Failed", "SwitchFailed", "its proof differs", row)
    over = rollout(OPEN.model_copy(update={"outcome": "Failed"}))
    assert next_step(over, facts(row)) == Rest()


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (promotion("done", "refused", reasons=["It is worse."]), "PromotionRefused"),
        (promotion("done", "undecided", reasons=["Neither is shown."]), "PromotionUndecided"),
        (promotion("done", "rolled_back", activation={"error": "its proof differs"}), "PromotionRolledBack"),
        (promotion("done", "promoted", activation={"status": "superseded"}), "PromotionSuperseded"),
        (promotion("failed", error="the disk is full"), "PromotionFailed"),
        (promotion("cancelled"), "PromotionFailed"),
    ],
)
def test_a_promotion_that_did_not_end_in_a_switch_has_failed(job: Promotion, reason: str) -> None:
    step = next_step(rollout(job_id=job.id, promotion=PROMOTION), facts(promotion=job))
    assert isinstance(step, Settle)
    assert (step.outcome, step.reason) == ("Failed", reason)
    assert "promotion_1" in step.message


def test_a_promotion_is_asked_for_waited_for_and_counts_only_with_its_switch() -> None:
    wanted = rollout(promotion=PROMOTION)
    assert next_step(wanted, facts()) == Promote()
    running = promotion("running", progress={"done": 30, "total": 400})
    assert next_step(wanted, facts(promotion=running)) == Wait(
        "PromotionRunning", "promotion_1 is running: 30 of 400 questions."
    )
    row = activation(8, "done")
    step = next_step(wanted, facts(activation(9, "done", "other"), row, promotion=promotion("done", "promoted")))
    assert isinstance(step, Settle)
    assert (step.outcome, step.activation) == ("Activated", row)


@pytest.mark.parametrize("ours", ["candidate", "on_pass"])
def test_a_promotion_leaves_the_switch_to_the_operator(ours: str) -> None:
    with pytest.raises(ValueError, match=f"{ours} is the operator's"):
        RolloutSpec(model="new", promotion=PROMOTION | {ours: "x"})
