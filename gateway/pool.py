"""The pool: which checkpoint is loaded. One writer task turns it; everybody else reads snapshots."""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.errors import LOAD_FAILURES, GatewayError, SwitchInProgress
from gateway.gate import Gate
from gateway.metrics import ENGINE_DEATHS, PROOF_DIFFERENCE, PROOFS, SWITCHES
from gateway.plan import Memory, Method, Situation, plan
from gateway.slot import Slot, StartEngine
from gateway.switching.blue_green import blue_green
from gateway.switching.in_place import in_place
from gateway.switching.restart import restart
from gateway.switching.transaction import Outcome, Transaction
from gateway.watchdog import Watchdog
from switchyard.contract import ActivateRequest, ActivateResult, FailedLoad, GatewayState, ModelRef, Reference

log = logging.getLogger(__name__)

_METHODS: dict[Method, Callable[[Transaction], Awaitable[Outcome]]] = {
    "in_place": in_place,
    "blue_green": blue_green,
    "restart": restart,
}
_DEATH_POLL_S = 0.25
_FIRST_RESTART_DELAY_S = 1.0
_COOL_DOWN_S = 300.0


@dataclass(frozen=True, slots=True)
class _Failure:
    digest: str
    error: str
    at: datetime
    monotonic: float


class Pool:
    """Owns the active slot. `activate` may be called from anywhere; the work is done by `run`, one thing at a time."""

    def __init__(
        self,
        gate: Gate,
        start_engine: StartEngine,
        max_restart_delay_s: float,
        memory: Callable[[], Memory],
        *,
        poll_s: float = _DEATH_POLL_S,
        first_delay_s: float = _FIRST_RESTART_DELAY_S,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._gate = gate
        self._start_engine = start_engine
        self._max_restart_delay_s = max_restart_delay_s
        self._memory = memory
        self._poll_s = poll_s
        self._first_delay_s = first_delay_s
        self._slot: Slot | None = None
        self._wanted: ModelRef | None = None
        self._wanted_reference: Reference | None = None
        self._retiring: dict[asyncio.Task[None], Slot] = {}
        self._switching_to: str | None = None
        self._orders: asyncio.Queue[tuple[ActivateRequest, asyncio.Future[ActivateResult]]] = asyncio.Queue()
        self._failures: dict[str, _Failure] = {}
        self._boot_id = uuid.uuid4().hex
        self._watchdog = watchdog or Watchdog()

    def snapshot(self) -> GatewayState:
        now = time.monotonic()
        return GatewayState(
            boot_id=self._boot_id,
            pid=os.getpid(),
            active=self._wanted,
            switching_to=self._switching_to,
            slots=[slot.state() for slot in (self._slot, *self._retiring.values()) if slot is not None],
            held=self._gate.held,
            failed_loads=[
                FailedLoad(
                    id=name,
                    digest=failure.digest,
                    error=failure.error,
                    failed_at=failure.at.isoformat(),
                    retry_in_s=round(max(0.0, failure.monotonic + _COOL_DOWN_S - now), 1),
                )
                for name, failure in self._failures.items()
            ],
        )

    async def activate(self, request: ActivateRequest) -> ActivateResult:
        """Switches to a model and says how it ended; a failed candidate is a result, not an exception.

        Raises SwitchInProgress while another switch or a restart of a dead engine runs, MethodImpossible.
        """
        if self._switching_to is not None:
            raise SwitchInProgress(self._switching_to)
        self._plan(request)
        self._switching_to = request.model.id
        ended: asyncio.Future[ActivateResult] = asyncio.get_running_loop().create_future()
        self._orders.put_nowait((request, ended))
        return await asyncio.shield(ended)

    async def run(self) -> None:
        """The writer task: carries out switches and restarts what died, until cancelled; then ends the engine."""
        try:
            while True:
                order = await self._next_order()
                if order is None:
                    await self._restore()
                    continue
                request, ended = order
                try:
                    result = await self._switch(request)
                except GatewayError as error:
                    ended.set_exception(error)
                else:
                    ended.set_result(result)
                finally:
                    self._switching_to = None
                    if not ended.done():
                        ended.cancel()
        finally:
            self._watchdog.stop()
            for task in self._retiring:
                task.cancel()
            left = [*self._retiring.values(), *([self._slot] if self._slot else [])]
            await asyncio.gather(*(slot.shutdown() for slot in left), return_exceptions=True)

    async def _next_order(self) -> tuple[ActivateRequest, asyncio.Future[ActivateResult]] | None:
        """The next switch asked for, or None once the wanted model is found not to be served."""
        while True:
            if self._orders.empty() and self._wanted is not None and (self._slot is None or self._slot.dead):
                return None
            self._watchdog.look_at(self._slot)
            try:
                async with asyncio.timeout(self._poll_s):
                    return await self._orders.get()
            except TimeoutError:
                continue

    async def _switch(self, request: ActivateRequest) -> ActivateResult:
        method = self._plan(request)
        switch = Transaction(self._gate, self._start_engine, request, method, self._slot)
        outcome = await _METHODS[method](switch)
        self._slot = outcome.slot
        if outcome.retired is not None:
            self._retire(outcome.retired, request)
        result = outcome.result
        SWITCHES.labels(method=result.method, outcome=result.status).inc()
        if result.proof is not None:
            PROOFS.labels(kind=result.proof.kind, passed=str(result.proof.passed).lower()).inc()
            if result.proof.mean_abs_diff is not None:
                PROOF_DIFFERENCE.labels(model=result.id).set(result.proof.mean_abs_diff)
        if result.status == "activated":
            self._wanted, self._wanted_reference = request.model, request.reference
            self._failures.pop(request.model.id, None)
            log.info("active model is %s (%s, %.0f ms)", result.id, result.method, result.total_ms)
        else:
            self._note_failure(request.model, result.error or "unknown")
            log.error("switch to %s failed: %s; serving %s", result.id, result.error, result.rolled_back_to)
        return result

    async def _restore(self) -> None:
        """Starts the wanted model again with back-off; gives way to a switch that is asked for meanwhile."""
        assert self._wanted is not None
        if self._slot is not None:
            dead, self._slot = self._slot, None
            ENGINE_DEATHS.labels(model=dead.model.id).inc()
            log.error("the engine of %s died; restarting it", dead.model.id)
            self._gate.down(f"The engine of `{dead.model.id}` died and is being restarted.", 5.0)
            await dead.abort_requests()  # a hung engine would never answer them
            await dead.shutdown()
        delay_s = self._first_delay_s
        while self._orders.empty():
            try:
                self._slot, _ = await Slot.load(self._wanted, self._start_engine, self._wanted_reference)
            except LOAD_FAILURES as error:
                self._note_failure(self._wanted, str(error))
                log.error("restart of %s failed, next try in %.0f s: %s", self._wanted.id, delay_s, error)
                self._gate.down(f"The engine of `{self._wanted.id}` does not start: {error}", delay_s)
                await self._order_or_delay(delay_s)
                delay_s = min(self._max_restart_delay_s, delay_s * 2)
                continue
            self._failures.pop(self._wanted.id, None)
            self._gate.open(self._slot)
            log.info("the engine of %s is back", self._wanted.id)
            return

    def _plan(self, request: ActivateRequest) -> Method:
        slot = self._slot
        return plan(
            Situation(
                running=slot.model.signature if slot else None,
                candidate=request.model.signature,
                anything_runs=slot is not None and not slot.dead,
                memory=self._memory(),
                wanted=request.method,
                in_flight=request.in_flight,
            )
        )

    def _retire(self, slot: Slot, request: ActivateRequest) -> None:
        """Lets a slot that serves no more finish its requests, bounded, and ends it; the pool goes on meanwhile."""

        async def finish() -> None:
            if request.in_flight == "abort" or not await slot.emptied(request.timeout_s):
                aborted = await slot.abort_requests()
                log.warning("%d requests of %s were aborted at the end of its slot", aborted, slot.model.id)
            await slot.shutdown()

        task = asyncio.create_task(finish(), name=f"retire {slot.model.id}")
        self._retiring[task] = slot
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        slot = self._retiring.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the slot of %s did not end cleanly", slot.model.id, exc_info=error)

    async def _order_or_delay(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                order = await self._orders.get()
        except TimeoutError:
            return
        self._orders.put_nowait(order)

    def _note_failure(self, model: ModelRef, error: str) -> None:
        self._failures[model.id] = _Failure(model.digest, error, datetime.now(UTC), time.monotonic())
