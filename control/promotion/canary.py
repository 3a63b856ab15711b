"""A canary between the decision and the switch: a share of live requests goes to the candidate, which is watched."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from control.errors import Conflict, GatewayUnavailable, JobPaused
from control.promotion.canary_judging import CanaryReader, judging
from control.promotion.canary_request import CanaryRequest
from control.promotion.set_run import Loader
from evals.run_files import read_json, write_json
from stepserve.canary import CanaryJudging, CanaryOrder, CanaryReport
from stepserve.contract import ModelRef
from stepserve.jobs.ports import BatchEngine

CANARY_FILE: Final = "canary.json"
_LOOK_EVERY_S = 1.0  # asking after it is what keeps a canary going: the gateway ends one that nobody asks after
_MOST_LOST = 3


class CanaryGateway(CanaryReader, Protocol):
    async def canary(self, order: CanaryOrder) -> CanaryReport:
        """Begins it, or asks after it, which keeps it going. Raises Conflict while another one runs,
        GatewayUnavailable.
        """
        ...

    async def end_canary(self, canary_id: str) -> None:
        """Raises GatewayUnavailable."""
        ...


class CanaryBoard:
    """What the gateway said last of a canary, for who looks at its promotion: of one, since one runs at a time."""

    def __init__(self) -> None:
        self._last: CanaryReport | None = None

    def note(self, report: CanaryReport) -> None:
        self._last = report

    def of(self, job_id: str) -> dict[str, Any] | None:
        """None: this job's did not run last, since control started."""
        last = self._last
        return last.model_dump(mode="json") if last is not None and last.id == job_id else None


async def run_canary(
    asked: CanaryRequest,
    order_id: str,
    models: tuple[ModelRef, str],
    run_dir: Path,
    gateway: CanaryGateway,
    engine: BatchEngine,
    load: Loader,
    board: CanaryBoard,
) -> dict[str, Any]:
    """How it ended, kept in canary.json: a later attempt finds it there. `models`: the candidate, and the digest of
    what is active. `engine`: where its judge is asked.

    Raises GatewayUnavailable when it is to be tried again, JobPaused while another one runs, and what loading raises.
    """
    kept: dict[str, Any] | None = await asyncio.to_thread(read_json, run_dir / CANARY_FILE)
    if kept is not None:
        return kept
    candidate, active = models
    order = _order_of(asked, order_id, candidate, active)
    try:
        async with judging(asked.judge, order_id, gateway, engine, load):
            report = await _watched(gateway, order, load, board)
        found = report.model_dump(mode="json")
        await asyncio.to_thread(write_json, run_dir / CANARY_FILE, found)  # before the gateway may forget it
    finally:
        await _ended(gateway, order_id)
    return found


def _order_of(asked: CanaryRequest, order_id: str, candidate: ModelRef, active: str) -> CanaryOrder:
    """The gateway need not know who the judge is."""
    judge = asked.judge and CanaryJudging(
        share=asked.judge.share, max_drop=asked.judge.max_drop, min_answers=asked.judge.min_answers
    )
    limits = asked.model_dump(exclude={"judge"})
    return CanaryOrder(id=order_id, candidate=candidate, active=active, judge=judge, **limits)


async def _watched(gateway: CanaryGateway, order: CanaryOrder, load: Loader, board: CanaryBoard) -> CanaryReport:
    """A candidate that is lost is loaded again, and its canary begins anew: nobody has seen that it is sound. One that
    does not stay is over its limits.
    """
    lost = 0
    await load.load_beside(order.candidate.id)
    while True:
        try:
            report = await gateway.canary(order)
        except Conflict as error:  # another promotion's: it will be over, in a day at most
            raise JobPaused(str(error)) from error
        board.note(report)
        if report.state == "running":
            await asyncio.sleep(_LOOK_EVERY_S)
            continue
        if report.state != "lost":
            return report
        lost += 1
        if lost > _MOST_LOST:
            reason = f"the candidate was lost {lost} times: {report.reason}"
            return report.model_copy(update={"state": "breached", "reason": reason})
        await load.load_beside(order.candidate.id)


async def _ended(gateway: CanaryGateway, canary_id: str) -> None:
    with suppress(GatewayUnavailable):  # it ends by itself when nobody asks after it
        await gateway.end_canary(canary_id)


def reason_of(canary: dict[str, Any]) -> str:
    """A sentence for the decision's reasons."""
    arm, old = canary["candidate"], canary["active"]
    if canary["compared"]:
        said = f"{canary['same']} of {canary['compared']} answers of the shadow were the same"
        if (new := arm.get("loss")) is not None:
            told = f"a loss of {new:.3f} by the candidate, {old['loss']:.3f} by itself"
            said += f"; the active model's answers have {told}"
        return f"the shadow {_ending(canary)}: {said}{_judged(canary)}"
    counted = f"{arm['requests']} requests to the candidate, {old['requests']} to the active model"
    return f"the canary {_ending(canary)}: {counted}{_judged(canary)}"


def _judged(canary: dict[str, Any]) -> str:
    judged = canary.get("judge")
    if judged is None:
        return ""
    unread = f", {judged['unread']} answers got no verdict" if judged["unread"] else ""
    if not judged["pairs"]:
        return f"; the judge compared no answers{unread}"
    shares = f"{judged['candidate_good']:.3f} of the candidate's, {judged['active_good']:.3f} of the active model's"
    return f"; the judge calls {shares} answers good, of {judged['pairs']} each{unread}"


def _ending(canary: dict[str, Any]) -> str:
    if canary["state"] == "passed":
        return f"passed after {canary['elapsed_s']:.0f} s"
    return f"was ended after {canary['elapsed_s']:.0f} s ({canary['state']}: {canary['reason']})"
