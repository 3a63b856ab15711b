"""A canary as control orders it: what is kept of its end, and who waits for whom."""

import asyncio
from pathlib import Path

import pytest

from control.errors import Conflict, JobPaused
from control.promotion.canary import CANARY_FILE, CanaryBoard, reason_of, run_canary
from control.promotion.canary_request import CanaryRequest
from stepserve.canary import CanaryAnswers, CanaryArm, CanaryOrder, CanaryReport, CanaryVerdicts
from stepserve.contract import AskRequest, AskResult, BatchRequest, BatchResult, ModelRef

CANDIDATE = ModelRef(id="new", path="", digest="sha256:new")
ARM = CanaryArm(requests=3, errors=3, latency_s=None, tokens=None)


class Gateway:
    """Every canary is over its limits at once. `on_end` is what befalls control while it asks for the end."""

    def __init__(self, on_end: BaseException | None = None, busy: str | None = None) -> None:
        self.orders: list[CanaryOrder] = []
        self.loaded: list[str] = []
        self.on_end, self.busy = on_end, busy

    async def canary(self, order: CanaryOrder) -> CanaryReport:
        if self.busy is not None:
            raise Conflict(self.busy)
        self.orders.append(order)
        return CanaryReport(id=order.id, state="breached", reason="errors", elapsed_s=1, candidate=ARM, active=ARM)

    async def end_canary(self, canary_id: str) -> None:
        if self.on_end is not None:
            raise self.on_end

    async def canary_answers(self, canary_id: str, said: CanaryVerdicts) -> CanaryAnswers:
        raise AssertionError("no judge was asked for")

    async def generate(self, request: BatchRequest) -> BatchResult:
        raise AssertionError("no judge was asked for")

    async def ask(self, request: AskRequest) -> AskResult:
        raise AssertionError("no judge was asked for")

    async def load_beside(self, model_id: str) -> None:
        self.loaded.append(model_id)


def run(gateway: Gateway, folder: Path) -> str:
    models = (CANDIDATE, "sha256:old")
    ran = run_canary(CanaryRequest(), "job", models, folder, gateway, gateway, gateway, CanaryBoard())
    return str(asyncio.run(ran)["state"])


def test_its_end_is_on_the_disk_before_the_gateway_is_told_that_it_may_forget_it(tmp_path: Path) -> None:
    killed = Gateway(on_end=asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        run(killed, tmp_path)
    assert (tmp_path / CANARY_FILE).exists()
    again = Gateway()
    assert run(again, tmp_path) == "breached"
    assert (again.orders, again.loaded) == ([], []), "nobody is answered by it a second time"


def test_a_shadow_says_what_it_compared() -> None:
    new, old = (ARM.model_copy(update={"loss": loss}) for loss in (0.75, 0.25))
    report = CanaryReport(
        id="job", state="passed", reason=None, elapsed_s=60, candidate=new, active=old, compared=4, same=3
    )
    assert reason_of(report.model_dump(mode="json")) == (
        "the shadow passed after 60 s: 3 of 4 answers of the shadow were the same; the active model's answers have"
        " a loss of 0.750 by the candidate, 0.250 by itself"
    )


def test_whoever_waits_for_another_canary_does_not_give_up(tmp_path: Path) -> None:
    with pytest.raises(JobPaused, match="A canary of `other` is running"):
        run(Gateway(busy="A canary of `other` is running; ask again when it has ended."), tmp_path)
