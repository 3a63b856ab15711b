"""The pool: which checkpoint is loaded. One writer task turns it; everybody else reads snapshots."""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

from gateway.errors import LOAD_FAILURES, EngineReloadFailed, GatewayError, ProofFailed, SwitchInProgress
from gateway.metrics import ENGINE_DEATHS, PROOF_DIFFERENCE, PROOFS, SWITCH_HOLD, SWITCH_PAUSE, SWITCHES, model_label
from gateway.serving.adapter import Adapter, attach
from gateway.serving.failed_loads import FailedLoads
from gateway.serving.gate import Gate
from gateway.serving.residents import Residents
from gateway.serving.slot import Slot, StartEngine
from gateway.serving.switching.blue_green import blue_green
from gateway.serving.switching.in_place import in_place
from gateway.serving.switching.plan import Memory, Method, Situation, plan, starts_engine, wants_memory
from gateway.serving.switching.promote import promote
from gateway.serving.switching.restart import restart
from gateway.serving.switching.transaction import Outcome, Transaction
from gateway.serving.watchdog import Watchdog
from stepserve.contract import ActivateRequest, ActivateResult, GatewayState, ModelRef, Reference, SlotState

log = logging.getLogger(__name__)

_METHODS: dict[Method, Callable[[Transaction], Awaitable[Outcome]]] = {
    "in_place": in_place,
    "blue_green": blue_green,
    "restart": restart,
}
_DEATH_POLL_S = 0.25
_FIRST_RESTART_DELAY_S = 1.0


class Pool:
    """Owns the active slot. `activate` may be called from anywhere; the work is done by `run`, one thing at a time.

    `residents` has the slots beside it, and what was active goes there or ends there.
    """

    def __init__(
        self,
        gate: Gate,
        start_engine: StartEngine,
        max_restart_delay_s: float,
        memory: Callable[[], Memory],
        *,
        max_loaded: int = 1,
        load_wait_s: float = 300.0,
        cool_down_s: float = 300.0,
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
        self._switching_to: str | None = None
        self._orders: asyncio.Queue[tuple[ActivateRequest, asyncio.Future[ActivateResult]]] = asyncio.Queue()
        self._failed = FailedLoads(cool_down_s)
        self.residents = Residents(
            max_loaded=max_loaded,
            wait_s=load_wait_s,
            start_engine=start_engine,
            memory=memory,
            failed=self._failed,
            others=lambda: 1 if self._slot is not None or self._wanted is not None else 0,
            active=lambda: self._slot,
        )
        self._boot_id = uuid.uuid4().hex
        self._watchdog = watchdog or Watchdog()

    def snapshot(self) -> GatewayState:
        return GatewayState(
            boot_id=self._boot_id,
            pid=os.getpid(),
            active=self._wanted,
            switching_to=self._switching_to,
            slots=list(self._states()),
            held=self._gate.held,
            failed_loads=self._failed.snapshot(),
        )

    def _states(self) -> Iterator[SlotState]:
        """Every slot's and, after it, those of its adapters."""
        slots = [self._slot] if self._slot is not None else []
        for slot in (*slots, *self.residents.slots):
            mine = [adapter for adapter in slot.adapters.values() if adapter.is_active and slot is self._slot]
            yield slot.state(active=slot is self._slot and not mine)
            for adapter in slot.adapters.values():
                yield adapter.state(active=adapter in mine)

    async def activate(self, request: ActivateRequest) -> ActivateResult:
        """Switches to a model and says how it ended; a failed candidate is a result, not an exception.

        Raises SwitchInProgress while another switch or a restart of a dead engine runs, MethodImpossible.
        """
        if self._switching_to is not None:
            raise SwitchInProgress(self._switching_to)
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
                except Exception as error:
                    # The supervisor loop: a defect of one switch costs the slot, which is started again, and no more.
                    log.exception("the switch to %s crashed", request.model.id)
                    if self._slot is not None:
                        self._slot.condemn()
                    ended.set_exception(EngineReloadFailed(f"the switch crashed: {type(error).__name__}: {error}"))
                else:
                    ended.set_result(result)
                finally:
                    self._switching_to = None
                    if not ended.done():
                        ended.cancel()
        finally:
            self._watchdog.stop()
            active = [self._slot.shutdown()] if self._slot is not None else []
            await asyncio.gather(self.residents.close(), *active, return_exceptions=True)

    async def _next_order(self) -> tuple[ActivateRequest, asyncio.Future[ActivateResult]] | None:
        """The next switch asked for, or None once the wanted model is found not to be served."""
        while True:
            if self._orders.empty() and self._wanted is not None and (self._slot is None or self._slot.dead):
                return None
            self._look_around()
            try:
                async with asyncio.timeout(self._poll_s):
                    return await self._orders.get()
            except TimeoutError:
                continue

    def _look_around(self) -> None:
        """Takes out residents that died, and has all others watched."""
        self.residents.bury()
        active = [self._slot] if self._slot is not None else []
        self._watchdog.look_at(*active, *self.residents.slots)

    async def _switch(self, request: ActivateRequest) -> ActivateResult:
        if request.model.base is not None:
            return await self._adapt(request, request.model.base)
        wanted, slot = self._wanted, self._slot
        if wanted is None or wanted.base is None:
            return await self._switch_slot(request)
        if slot is not None and not slot.dead and _same(slot.model, request.model):
            return self._unadapt(request, slot, wanted)
        result = (await self._switch_slot(request)).model_copy(update={"previous": wanted.id})
        if result.status == "failed" and await self._adapted_again(wanted):
            return result.model_copy(update={"rolled_back_to": wanted.id})
        return result

    async def _adapt(self, request: ActivateRequest, base: ModelRef) -> ActivateResult:
        """Makes an adapter the active model: on the slot of its base, which is switched to first where it must be."""
        started_s = time.monotonic()
        before, before_reference = self._wanted, self._wanted_reference
        beneath: ActivateResult | None = None
        if self._slot is None or self._slot.dead or not _same(self._slot.model, base):
            wish = {"model": base, "reference": request.base_reference, "base_reference": None}
            beneath = await self._switch(request.model_copy(update=wish))
            if beneath.status == "failed":
                return beneath.model_copy(update={"id": request.model.id})
        assert self._slot is not None
        result = beneath or ActivateResult(
            status="activated", id=base.id, previous=None, method="adapter", paused_ms=0, total_ms=0,
            in_flight=self._slot.in_flight,
        )  # fmt: skip
        proof, error, back_to = None, None, None
        try:
            _, proof = await attach(self._slot, request.model, request.reference, self._open)
        except LOAD_FAILURES as failure:
            proof = failure.proof if isinstance(failure, ProofFailed) else None
            error = str(failure)
            self._failed.note(request.model, error)
            log.error("switch to the adapter %s failed: %s", request.model.id, error)
            if beneath is not None and before is not None:
                await self._switch(
                    ActivateRequest(model=before, reference=before_reference, timeout_s=request.timeout_s)
                )
            back_to = self._wanted.id if self._wanted else None
        else:
            self._wanted, self._wanted_reference = request.model, request.reference
            self._failed.forget(request.model.id)
            log.info("active model is the adapter %s on %s", request.model.id, base.id)
        SWITCHES.labels(method="adapter", outcome="activated" if error is None else "failed").inc()
        return result.model_copy(
            update={
                "status": "activated" if error is None else "failed",
                "id": request.model.id,
                "previous": before.id if before else None,
                "total_ms": round((time.monotonic() - started_s) * 1000, 2),
                "proof": proof,
                "error": error,
                "rolled_back_to": back_to,
            }
        )

    def _unadapt(self, request: ActivateRequest, slot: Slot, wanted: ModelRef) -> ActivateResult:
        """From an adapter to its own base, which never stopped answering."""
        self._open(slot)
        self._wanted, self._wanted_reference = request.model, request.reference
        SWITCHES.labels(method="adapter", outcome="activated").inc()
        return ActivateResult(
            status="activated", id=slot.model.id, previous=wanted.id, method="adapter", paused_ms=0, total_ms=0,
            in_flight=slot.in_flight,
        )  # fmt: skip

    async def _adapted_again(self, wanted: ModelRef) -> bool:
        """After a switch that failed: the adapter that was active, on the slot that serves again. False: it cannot."""
        if self._slot is None or wanted.base is None or not _same(self._slot.model, wanted.base):
            return False
        try:
            await attach(self._slot, wanted, self._wanted_reference, self._open)
        except LOAD_FAILURES as error:
            log.error("%s cannot be put back on its base, which serves instead: %s", wanted.id, error)
            self._wanted, self._wanted_reference = self._slot.model, self._slot.reference
            return False
        return True

    def _open(self, served: Slot | Adapter) -> None:
        """The gate opens on a slot, or on one of its adapters."""
        for adapter in served.host.adapters.values():
            adapter.is_active = adapter is served
        self._gate.open(served)

    async def _switch_slot(self, request: ActivateRequest) -> ActivateResult:
        if not starts_engine(self._situation(request)):
            return await self._carry_out(request)
        async with self.residents.room:
            return await self._carry_out(request)

    async def _carry_out(self, request: ActivateRequest) -> ActivateResult:
        method, candidate = await self._plan(request)
        switch = Transaction(self._gate, self._start_engine, request, method, self._slot)
        outcome = await (promote(switch, candidate) if candidate is not None else _METHODS[method](switch))
        if outcome.result.status == "activated":  # the gate is open on the slot itself
            for slot in (self._slot, outcome.slot):
                for adapter in slot.adapters.values() if slot is not None else ():
                    adapter.is_active = False
        self._slot = outcome.slot
        if outcome.retired is not None:
            self.residents.retire(outcome.retired, request.timeout_s, abort=request.in_flight == "abort")
        if outcome.kept is not None:
            self.residents.adopt(outcome.kept)
        result = outcome.result
        SWITCHES.labels(method=result.method, outcome=result.status).inc()
        SWITCH_PAUSE.labels(method=result.method).observe(result.paused_ms / 1000)
        SWITCH_HOLD.labels(method=result.method).observe(result.held_ms / 1000)
        if result.proof is not None:
            PROOFS.labels(kind=result.proof.kind, passed=str(result.proof.passed).lower()).inc()
            if result.proof.mean_abs_diff is not None:
                PROOF_DIFFERENCE.labels(model=model_label(result.id)).set(result.proof.mean_abs_diff)
        if result.status == "activated":
            self._wanted, self._wanted_reference = request.model, request.reference
            self.residents.drop(request.model.id)
            self._failed.forget(request.model.id)
            ENGINE_DEATHS.labels(model=model_label(result.id))  # there at nought, so that the first death is a change
            log.info("active model is %s (%s, %.0f ms)", result.id, result.method, result.total_ms)
        else:
            self._failed.note(request.model, result.error or "unknown")
            log.error("switch to %s failed: %s; serving %s", result.id, result.error, result.rolled_back_to)
        return result

    async def _restore(self) -> None:
        """Starts the wanted model again with back-off; gives way to a switch that is asked for meanwhile."""
        assert self._wanted is not None
        dead, self._slot = self._slot, None
        if dead is not None:
            ENGINE_DEATHS.labels(model=model_label(dead.model.id)).inc()
            log.error("the engine of %s died; restarting it", dead.model.id)
            self._gate.down(f"The engine of `{dead.model.id}` died and is being restarted.", 5.0)
            await dead.abort_requests()  # a hung engine would never answer them
        delay_s = self._first_delay_s
        while True:
            async with self.residents.room:  # nobody else counts on the memory that the dead engine leaves free
                if dead is not None:
                    await dead.shutdown()
                    dead = None
                if not self._orders.empty() or await self._restored(self._wanted, delay_s):
                    return
            self._look_around()  # whatever the active model does, those beside it are served
            await self._order_or_delay(delay_s)
            delay_s = min(self._max_restart_delay_s, delay_s * 2)

    async def _restored(self, wanted: ModelRef, delay_s: float) -> bool:
        """One try to load the wanted model; after one that failed the next is in `delay_s`."""
        try:
            self._slot = await self._load_wanted(wanted)
        except LOAD_FAILURES as error:
            self._failed.note(wanted, str(error))
            log.error("restart of %s failed, next try in %.0f s: %s", wanted.id, delay_s, error)
            self._gate.down(f"The engine of `{wanted.id}` does not start: {error}", delay_s)
            return False
        self._failed.forget(wanted.id)
        log.info("the engine of %s is back", wanted.id)
        return True

    async def _load_wanted(self, wanted: ModelRef) -> Slot:
        """A new engine, and the gate open on it or on the adapter that is wanted. Raises LOAD_FAILURES."""
        if wanted.base is None:
            slot, _ = await Slot.load(wanted, self._start_engine, self._wanted_reference)
            self._open(slot)
            return slot
        slot, _ = await Slot.load(wanted.base, self._start_engine, None)
        try:
            await attach(slot, wanted, self._wanted_reference, self._open)
        except BaseException:
            await slot.shutdown()
            raise
        return slot

    async def _plan(self, request: ActivateRequest) -> tuple[Method, Slot | None]:
        """The method, and the candidate's slot where it is loaded beside already.

        Idle slots give way before a switch is refused, or takes the longer way, for want of memory. Raises
        MethodImpossible.
        """
        situation = self._situation(request)
        if wants_memory(situation) and await self.residents.make_room(request.model):
            situation = replace(situation, memory=self._memory())
        method = plan(situation)
        promotes = method == "blue_green" and situation.resident
        return method, self.residents.claim(request.model) if promotes else None

    def _situation(self, request: ActivateRequest) -> Situation:
        slot = self._slot
        resident = self.residents.ready(request.model.id)
        return Situation(
            running=slot.model.signature if slot else None,
            candidate=request.model.signature,
            anything_runs=slot is not None and not slot.dead,
            memory=self._memory(),
            wanted=request.method,
            in_flight=request.in_flight,
            resident=resident is not None and resident.model.is_loaded_as(request.model),
            reload_obstacle=slot.engine.reload_obstacle if slot else None,
        )

    async def _order_or_delay(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                order = await self._orders.get()
        except TimeoutError:
            return
        self._orders.put_nowait(order)


def _same(loaded: ModelRef, wanted: ModelRef) -> bool:
    return (loaded.id, loaded.digest) == (wanted.id, wanted.digest)
