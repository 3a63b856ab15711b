"""The active model: switches to another, and the engine that died is started again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial

from gateway.errors import (
    LOAD_FAILURES,
    EngineReloadFailed,
    EngineStartFailed,
    GatewayError,
    MethodImpossible,
    SwitchInProgress,
)
from gateway.metrics import ENGINE_DEATHS, PROOF_DIFFERENCE, PROOFS, SWITCH_HOLD, SWITCH_PAUSE, SWITCHES, model_label
from gateway.serving.adapter import Adapter, surplus
from gateway.serving.failed_loads import FailedLoads
from gateway.serving.gate import Gate
from gateway.serving.ledger import Ledger
from gateway.serving.memory import Memory
from gateway.serving.operations import Claim, Shared, ids
from gateway.serving.slot import Loaded, Slot, StartEngine
from gateway.serving.switching.adapter import adapter
from gateway.serving.switching.blue_green import blue_green
from gateway.serving.switching.in_place import in_place, stage
from gateway.serving.switching.plan import Method, Situation, plan, wants_memory
from gateway.serving.switching.promote import promote
from gateway.serving.switching.restart import restart
from gateway.serving.switching.target import Target
from gateway.serving.switching.transaction import Outcome, Transaction
from gateway.serving.weights.versions import Versions
from stepserve.contract import ActivateRequest, ActivateResult, ModelRef, Proof

log = logging.getLogger(__name__)

_METHODS: dict[Method, Callable[[Transaction], Awaitable[Outcome]]] = {
    "adapter": adapter,
    "in_place": in_place,
    "blue_green": blue_green,
    "restart": restart,
}


@dataclass(frozen=True, slots=True)
class Activation:
    """A switch that somebody asked for, and waits for."""

    request: ActivateRequest
    ended: asyncio.Future[ActivateResult]

    @property
    def target(self) -> Target:
        return Target(self.request.model, self.request.reference, self.request.base_reference)


@dataclass(slots=True)
class ActiveModel:
    """`wanted` is what the last switch that succeeded led to, as its files are, whatever was pushed since. The gate
    is open on it, held during a switch that needs that, or down while its engine is started again.

    Only the pool's loop calls this.
    """

    gate: Gate
    ledger: Ledger
    failed: FailedLoads
    start_engine: StartEngine
    memory: Memory
    versions: Versions
    first_delay_s: float
    max_delay_s: float
    wanted: Target | None = field(default=None, init=False)
    activation: Activation | None = field(default=None, init=False)
    _restart_at_s: float = field(default=0.0, init=False)
    _delay_s: float = field(default=0.0, init=False)

    @property
    def restart_in_s(self) -> float | None:
        """Until the wanted model is tried again; None when it serves."""
        if self.wanted is None or self.ledger.loaded.serving is not None:
            return None
        return max(0.0, self._restart_at_s - _now_s())

    def ask(self, activation: Activation) -> None:
        if self.activation is not None:
            refuse(activation, SwitchInProgress(self.activation.request.model.id))
        else:
            self.activation = activation

    def keeps(self, name: str) -> bool:
        """Whether that model is not to be unloaded: it is active, or about to be."""
        targets = [self.wanted, self.activation.target if self.activation is not None else None]
        return any(target is not None and name in target.ids for target in targets)

    def close(self) -> None:
        """Nobody waits for a switch any more."""
        if self.activation is not None:
            self.activation.ended.cancel()

    def advance(self, reserved: set[Claim]) -> None:
        """Starts what can be started. To `reserved`, which is what runs, it adds what is to run next."""
        serving = self.ledger.loaded.serving
        free = Shared.ACTIVE not in self.ledger.operations.claimed
        if serving is not None and serving.dead and free:
            self._bury(serving)
        if self.activation is not None and free:
            self._advance_switch(self.activation, reserved)
        if self.wanted is not None and self.ledger.loaded.serving is None:
            self._advance_restart(self.wanted, reserved)

    def _bury(self, serving: Loaded) -> None:
        self._remember_references()
        name = serving.host.model.id
        self.ledger.note_death(name, active=True)
        log.error("the engine of %s died; restarting it", name)
        self.gate.down(f"The engine of `{name}` died and is being restarted.", 5.0)
        self.ledger.serve(None, abort=True)  # a hung engine would never answer who is inside
        self._restart_at_s, self._delay_s = _now_s(), self.first_delay_s

    def _remember_references(self) -> None:
        """What serves may have got a reference since the switch to it: what is loaded again is proved by that one."""
        serving, wanted = self.ledger.loaded.serving, self.wanted
        if serving is None or wanted is None or serving.model != wanted.model:
            return
        base = serving.host.reference if wanted.model.base is not None else None
        self.wanted = replace(
            wanted, reference=serving.reference or wanted.reference, base_reference=base or wanted.base_reference
        )

    def _advance_switch(self, activation: Activation, reserved: set[Claim]) -> None:
        claims = ids(activation.target.ids) | {Shared.ACTIVE}
        if self.wanted is not None:
            claims |= ids(self.wanted.ids)
        if claims & reserved:
            reserved |= claims
            return
        try:
            reserved |= claims | self._step(activation, claims, reserved)
        except GatewayError as error:
            self._refuse(activation, error)
        except Exception as error:  # a defect costs this switch, and not the pool
            log.exception("the switch to %s could not be planned", activation.request.model.id)
            self._refuse(activation, EngineReloadFailed(f"the switch crashed: {type(error).__name__}: {error}"))

    def _step(self, activation: Activation, claims: frozenset[Claim], reserved: set[Claim]) -> frozenset[Claim]:
        """One step towards the switch, and what it claims or waits for. Raises MethodImpossible."""
        situation, loaded = self._situation(activation), self.ledger.loaded
        host = activation.target.host
        # Idle slots give way before it is refused, or takes the longer way, for that.
        if wants_memory(situation) and (Shared.ROOM in reserved or self._makes_room(host)):
            return frozenset({Shared.ROOM})
        method, other = plan(situation), loaded.other(host.id)
        candidate = other if method == "blue_green" and situation.resident else None
        twin = other if method == "restart" and other and other.model.digest == host.digest else None
        touched = {candidate} if method == "blue_green" else {loaded.active, twin}
        more: frozenset[Claim] = frozenset(slot for slot in touched if slot is not None)
        if method == "restart" or (method == "blue_green" and candidate is None):
            more |= {Shared.ROOM}
        if more & reserved:
            return more
        if method == "restart":
            gone = [slot for slot in touched if slot is not None]
            shortage = self.memory.shortage(host, gone)
            if shortage is not None and self._makes_room(host, gone):
                return more
            if shortage is not None and gone:
                raise MethodImpossible(f"method: `restart` is impossible here: {shortage} when what serves has ended.")
        self._start(activation, method, candidate, twin, claims | more)
        return more

    def _makes_room(self, model: ModelRef, gone: Collection[Slot] = ()) -> bool:
        """Whether there may be memory for the model soon: an idle slot leaves for it, is about to, or has to be waited
        for because somebody enters it next. `gone`: slots that end for it anyway.
        """
        loaded = self.ledger.loaded
        idle = loaded.idle(but=self.ledger.taken)
        leavers = self.memory.leavers(model, idle, gone)
        if leavers:
            log.info("%s leaves: it was used least recently and %s needs its memory", leavers[0].model.id, model.id)
            self.ledger.retire(leavers[0], 0.0)
            return True
        if any(not slot.in_flight for slot in loaded.leaving):
            return True
        promised = [slot for slot in loaded.idle(but=self.ledger.operations.claimed) if slot not in idle]
        return bool(promised) and self.memory.leavers(model, [*idle, *promised], gone) is not None

    def _start(
        self,
        activation: Activation,
        method: Method,
        candidate: Slot | None,
        twin: Slot | None,
        claims: frozenset[Claim],
    ) -> None:
        request, target, loaded = activation.request, activation.target, self.ledger.loaded
        self._remember_references()
        room = partial(self.ledger.operations.claim, Shared.ROOM)
        switch = Transaction(self.start_engine, request, method, room, loaded.serving, self.wanted, candidate, twin)
        if twin is not None:
            self.ledger.withdraw(twin)
        mounted_on = candidate or (loaded.active if method == "adapter" else None)
        if target.model.base is not None and mounted_on is not None:
            try:
                switch.surplus = surplus(mounted_on, target.model.id, loaded.serving)
            except EngineStartFailed as error:
                self._end(activation, switch, switch.unchanged(error))
                return
            if switch.surplus is not None:
                del mounted_on.adapters[switch.surplus.model.id]
        if method == "in_place":
            finish = partial(self._staged, activation, switch, claims)
            self.ledger.operations.start(f"stage {target.host.id}", stage(switch), claims, finish)
        else:
            self._carry_out(activation, switch, claims)

    def _staged(
        self, activation: Activation, switch: Transaction, claims: frozenset[Claim], task: asyncio.Task[None]
    ) -> None:
        """What could be made ready is; only now do requests wait. What was claimed is so without a break."""
        if task.cancelled():
            activation.ended.cancel()
            return
        if (crash := task.exception()) is not None:
            log.error("%s could not be made ready", switch.target.host.id, exc_info=crash)
        self._carry_out(activation, switch, claims)

    def _carry_out(self, activation: Activation, switch: Transaction, claims: frozenset[Claim]) -> None:
        if switch.holds:
            self.gate.hold()
            switch.hold()
        work = promote(switch) if switch.candidate is not None else _METHODS[switch.method](switch)
        finish = partial(self._switched, activation, switch)
        self.ledger.operations.start(f"switch to {switch.target.model.id}", _awaited(work), claims, finish)

    def _situation(self, activation: Activation) -> Situation:
        request, host, loaded = activation.request, activation.target.host, self.ledger.loaded
        slot, other = loaded.active, loaded.other(host.id)
        runs = slot is not None and not slot.dead
        hosted = runs and slot is not None and (slot.model.id, slot.model.digest) == (host.id, host.digest)
        return Situation(
            running=slot.model.signature if slot else None,
            candidate=host.signature,
            anything_runs=runs,
            shortage=self.memory.shortage(host),
            wanted=request.method,
            in_flight=request.in_flight,
            hosted=hosted and (request.model.base is not None or isinstance(loaded.serving, Adapter)),
            resident=other is not None and not other.dead and other.model.is_loaded_as(host),
            reload_obstacle=slot.engine.reload_obstacle if slot else None,
        )

    def _switched(self, activation: Activation, switch: Transaction, task: asyncio.Task[Outcome]) -> None:
        if task.cancelled():
            activation.ended.cancel()
            return
        crash = task.exception()
        if crash is None:
            self._end(activation, switch, task.result())
            return
        # The supervisor: a defect of one switch costs the slot, which is started again, and no more.
        log.error("the switch to %s crashed", activation.request.model.id, exc_info=crash)
        if switch.slot is not None:
            switch.slot.condemn()
        error = EngineReloadFailed(f"the switch crashed: {type(crash).__name__}: {crash}")
        self._commit(switch, switch.unchanged(error))
        self._refuse(activation, error)

    def _end(self, activation: Activation, switch: Transaction, outcome: Outcome) -> None:
        self._commit(switch, outcome)
        result = switch.result(outcome)
        _count(result)
        if outcome.error is None:
            self.failed.forget(result.id)
            log.info("active model is %s (%s, %.0f ms)", result.id, result.method, result.total_ms)
        else:
            self.failed.note(activation.request.model, str(outcome.error))
            log.error("switch to %s failed: %s; serving %s", result.id, result.error, result.rolled_back_to)
        self.activation = None
        if not activation.ended.done():
            activation.ended.set_result(result)

    def _commit(self, switch: Transaction, outcome: Outcome) -> None:
        """What is loaded, what is wanted and the gate change together, so nobody sees one without the others."""
        target, request, served = switch.target, switch.request, outcome.serves
        if outcome.error is None:
            assert served is not None
            if switch.method != "adapter" or target.model.base is None:
                self.ledger.become(served.host, target.host, target.host_reference)
            self.wanted = target
        elif served is not None and self.wanted is not None and served.model.id != self.wanted.model.id:
            self.wanted = replace(self.wanted, model=served.model, reference=self.wanted.host_reference)
        died = served is None and switch.running is not None and switch.running.dead
        pushed = switch.slot is not None and switch.slot.version.number > 0
        self.ledger.serve(
            served,
            keep=outcome.keep and not pushed,  # who names it later means its files
            timeout_s=request.timeout_s,
            abort=died or request.in_flight == "abort",
        )
        if died and switch.slot is not None:
            self.ledger.note_death(switch.slot.model.id, active=True)
        if served is not None:
            self.gate.open(served)
        else:
            name = self.wanted.model.id if self.wanted is not None else target.model.id
            self.gate.down(outcome.down or f"The engine of `{name}` died and is being restarted.", 10.0)
            self._restart_at_s, self._delay_s = _now_s(), self.first_delay_s
        switch.stop_clocks()
        if switch.twin is not None:
            self.ledger.give_back(switch.twin)
        self.versions.announce()
        if outcome.unfit is not None:
            self.ledger.retire(outcome.unfit, request.timeout_s)
        if outcome.error is None:
            for name in target.ids:
                self.ledger.drop(name)

    def _refuse(self, activation: Activation, error: GatewayError) -> None:
        self.activation = None
        refuse(activation, error)

    def _advance_restart(self, wanted: Target, reserved: set[Claim]) -> None:
        """One try to load the wanted model again; after one that failed the next has to wait."""
        claims = ids(wanted.ids) | {Shared.ACTIVE, Shared.ROOM}
        due = _now_s() >= self._restart_at_s
        blocked = claims & reserved
        reserved |= claims if due else ids(wanted.ids)
        # Engines that are ending give memory back that the new one needs.
        ending = any(slot.dead or not slot.in_flight for slot in self.ledger.loaded.leaving)
        if not due or blocked or ending:
            return
        if self.memory.shortage(wanted.host) is None or not self._makes_room(wanted.host):
            work = wanted.load(self.start_engine)
            self.ledger.operations.start(f"restart {wanted.model.id}", work, claims, partial(self._restarted, wanted))

    def _restarted(self, wanted: Target, task: asyncio.Task[tuple[Loaded, Proof]]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            served, _ = task.result()
            self.failed.forget(wanted.model.id)
            log.info("the engine of %s is back", wanted.model.id)
            self.ledger.serve(served)
            self.gate.open(served)
            self.versions.announce()
            return
        if not isinstance(error, LOAD_FAILURES):
            log.error("the restart of %s crashed", wanted.model.id, exc_info=error)
        self.failed.note(wanted.model, str(error))
        log.error("restart of %s failed, next try in %.0f s: %s", wanted.model.id, self._delay_s, error)
        self.gate.down(f"The engine of `{wanted.model.id}` does not start: {error}", self._delay_s)
        self._restart_at_s = _now_s() + self._delay_s
        self._delay_s = min(self.max_delay_s, self._delay_s * 2)


def _count(result: ActivateResult) -> None:
    SWITCHES.labels(method=result.method, outcome=result.status).inc()
    SWITCH_PAUSE.labels(method=result.method).observe(result.paused_ms / 1000)
    SWITCH_HOLD.labels(method=result.method).observe(result.held_ms / 1000)
    if result.proof is not None:
        PROOFS.labels(kind=result.proof.kind, passed=str(result.proof.passed).lower()).inc()
        if result.proof.mean_abs_diff is not None:
            PROOF_DIFFERENCE.labels(model=model_label(result.id)).set(result.proof.mean_abs_diff)
    if result.status == "activated":
        ENGINE_DEATHS.labels(model=model_label(result.id))  # initialised to 0 so that the first death shows


def refuse(activation: Activation, error: GatewayError) -> None:
    if not activation.ended.done():
        activation.ended.set_exception(error)


async def _awaited(work: Awaitable[Outcome]) -> Outcome:
    return await work


def _now_s() -> float:
    return asyncio.get_running_loop().time()
