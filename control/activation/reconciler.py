"""The Reconciler: keeps the gateway serving what the database says is active, whichever of the two restarts."""

import asyncio
import logging
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from control.activation.activator import Activator
from control.database.tables import ActivationRow
from control.errors import GatewayUnavailable, ServiceError
from control.fleet.local import facts_of, serves_files_of
from control.fleet.rollouts import Rollouts
from control.gateway_client import GatewayClient
from control.models.activation_log import ActivationLog, ActiveModel
from stepserve.contract import FailedLoad, GatewayState, ModelRef
from stepserve.fleet import Committed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PollIntervals:
    """How often the gateway is looked at: while it differs from the database, and else."""

    out_of_step_s: float = 0.5
    in_step_s: float = 2.0


class Reconciler:
    """Acts only when nobody else does: no switch is under way and no failed load is cooling down."""

    def __init__(
        self,
        activator: Activator,
        history: ActivationLog,
        gateway: GatewayClient,
        rollouts: Rollouts,
        intervals: PollIntervals,
    ) -> None:
        self._activator = activator
        self._history = history
        self._gateway = gateway
        self._rollouts = rollouts
        self._intervals = intervals
        self._wake = asyncio.Event()
        self._last_trouble = ""

    def poke(self) -> None:
        """Looks again at once."""
        self._wake.set()

    async def run(self) -> None:
        """For ever, until cancelled. Settles activations that were left unfinished, by an earlier process too."""
        interrupted = list(await self._history.unfinished())
        while True:
            self._wake.clear()
            in_step = False
            pause_s = self._intervals.out_of_step_s
            try:
                if self._activator.left_open:
                    interrupted = await self._left_open() or interrupted
                wanted = await self._history.active()
                state = await self._gateway.state()
                interrupted = await self._settle(interrupted, state)
                in_step = not interrupted and await self._reconcile(state, wanted)
            except GatewayUnavailable as error:
                self._note(f"waiting for the gateway: {error}", logging.INFO)
            except ServiceError as error:
                self._note(f"cannot bring the active model back: {error}", logging.ERROR)
                pause_s = self._intervals.in_step_s
            except SQLAlchemyError as error:
                self._note(f"the database does not answer: {error}", logging.ERROR)
            except Exception:
                # A supervisor loop: a defect here must not leave the gateway without a model.
                log.exception("unexpected error in the reconciler; retrying")
                pause_s = self._intervals.in_step_s
            if in_step:
                self._last_trouble = ""
                pause_s = self._intervals.in_step_s
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _left_open(self) -> list[ActivationRow]:
        """Activations that a switch of this process has left unfinished; none while another runs, which has one too."""
        rows = list(await self._history.unfinished())
        if self._activator.target is not None:
            return []
        await self._rollouts.open()  # one whose activation had ended is over
        self._activator.left_open = False
        return rows

    async def _settle(self, interrupted: list[ActivationRow], state: GatewayState) -> list[ActivationRow]:
        """Those that cannot be judged yet: the gateway is still at it."""
        if state.switching_to is not None or (interrupted and self._activator.target is not None):
            return interrupted
        for row in interrupted:
            if row.version:
                served = facts_of(state, versioned=True).serves
                serves_it = served == Committed(model=row.model_id, digest=row.digest, version=row.version)
            else:
                serves_it = serves_files_of(state, ModelRef(id=row.model_id, path="", digest=row.digest))
            verdict = await self._rollouts.verdict(row.id)
            counts = serves_it if verdict is None else verdict
            if counts:
                log.warning("activation %d of %s was finished by the gateways alone", row.id, row.model_id)
                await self._history.commit(row.id, None)
            else:
                log.warning("activation %d of %s was interrupted", row.id, row.model_id)
                await self._history.fail(row.id, "interrupted")
            await self._rollouts.settled(row.id, committed=counts)
        return []

    async def _reconcile(self, state: GatewayState, before: ActiveModel | None) -> bool:
        """True when there is nothing to do. `before` was wanted when the state was asked for."""
        wanted = await self._history.active()
        if wanted is None or await self._is_served(state, wanted):
            return True
        if wanted != before:  # a switch has ended since, and the state may be older than that
            return False
        if state.switching_to is not None or self._activator.target is not None or self._activator.left_open:
            return False
        if any(_is_of(failed, wanted) and failed.retry_in_s > 0 for failed in state.failed_loads):
            return False
        log.info("the gateway serves %s, not %s: bringing it there", state.active.id if state.active else None, wanted)
        await self._activator.restore(wanted)
        return True

    async def _is_served(self, state: GatewayState, wanted: ActiveModel) -> bool:
        """Weights that were pushed since are left alone, unless they are a push to the fleet that was taken back."""
        if not serves_files_of(state, _ref(wanted)):
            return False
        number = state.pushed.number if state.pushed is not None else 0
        if number <= wanted.version.number:
            return number == wanted.version.number
        return not await self._history.is_taken_back(wanted.id, number)

    def _note(self, trouble: str, level: int) -> None:
        """Once, however long it lasts."""
        if trouble != self._last_trouble:
            log.log(level, "%s", trouble)
            self._last_trouble = trouble


def _is_of(failed: FailedLoad, model: ActiveModel) -> bool:
    return failed.id == model.id and failed.digest in {None, model.digest}


def _ref(model: ActiveModel) -> ModelRef:
    return ModelRef(id=model.id, path=model.path, digest=model.digest)
