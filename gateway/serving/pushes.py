"""Weights that are pushed into the active model: one push at a time, and none while it is switched."""

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial

from gateway.errors import EngineReloadFailed, GatewayError, PushInProgress, PushRefused, Unserved
from gateway.metrics import PROOF_DIFFERENCE, PROOFS, PUSH_PAUSE, PUSHED_AT, PUSHED_BYTES, PUSHES, model_label
from gateway.serving.gate import Gate
from gateway.serving.ledger import Ledger
from gateway.serving.operations import Claim, Shared, ids
from gateway.serving.slot import Slot
from gateway.serving.switching.push import Pushed, PushRequest, PushTransaction, prepare
from gateway.serving.weights.versions import Versions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Push:
    """One that somebody asked for, and waits for."""

    request: PushRequest
    ended: asyncio.Future[Pushed]


@dataclass(slots=True)
class Pushes:
    """Only the pool's loop calls this. The active model stays what the last switch led to: a push changes the weights
    that it answers with, not which files it is to be loaded from after its engine's death.
    """

    gate: Gate
    ledger: Ledger
    versions: Versions
    push: Push | None = field(default=None, init=False)
    _runs: bool = field(default=False, init=False)

    def ask(self, push: Push) -> None:
        if self.push is not None:
            settle(push, PushInProgress(self.push.request.model.id))
        else:
            self.push = push

    def close(self) -> None:
        """Nobody waits any more."""
        if self.push is not None:
            self.push.ended.cancel()

    def advance(self, reserved: set[Claim], paused: Slot | None) -> None:
        """Starts it when nothing that runs, or is to run before, is done with its slot; or at once where that is
        `paused`, for just this.
        """
        push = self.push
        if push is None or self._runs:
            return
        obstacle = self._obstacle(push.request)
        if obstacle is not None:
            self.push = None
            settle(push, obstacle)
            return
        slot = push.request.slot
        is_paused = slot is paused
        claims: frozenset[Claim] = frozenset()  # a pause has them
        if not is_paused:
            claims = ids({slot.model.id}) | {Shared.ACTIVE, slot}
            waits = bool(claims & reserved)
            reserved |= claims
            if waits:
                return
        self._runs = True
        if is_paused:
            self._carry_out(push, claims, is_paused=True)
        else:
            prepared = partial(self._prepared, push, claims)
            self.ledger.operations.start(f"stage a push to {slot.model.id}", prepare(push.request), claims, prepared)

    def _prepared(self, push: Push, claims: frozenset[Claim], task: asyncio.Task[None]) -> None:
        """What could be made ready is; only now do requests wait. What was claimed is so without a break."""
        if task.cancelled():
            self.push, self._runs = None, False
            push.request.weights.close()
            push.ended.cancel()
            return
        if (crash := task.exception()) is not None:
            log.error("a push to %s could not be made ready", push.request.model.id, exc_info=crash)
        self._carry_out(push, claims, is_paused=False)

    def _carry_out(self, push: Push, claims: frozenset[Claim], *, is_paused: bool) -> None:
        if not is_paused:
            self.gate.hold()
        work = PushTransaction(push.request, is_paused).run()
        finish = partial(self._ended, push, is_paused)
        self.ledger.operations.start(f"push to {push.request.slot.model.id}", work, claims, finish)

    def _obstacle(self, request: PushRequest) -> GatewayError | None:
        slot, loaded, name = request.slot, self.ledger.loaded, request.before.id
        if loaded.serving is None:
            return Unserved(f"The engine of `{name}` died and is being restarted.", 5.0)
        if loaded.serving is not slot or slot.model is not request.before:
            return PushRefused(f"`{name}` was switched or reloaded while its weights came in; push again.")
        if slot.dead:
            return Unserved(f"The engine of `{name}` died.", 5.0)
        if slot.adapters:
            names = ", ".join(f"`{each}`" for each in slot.adapters)
            return PushRefused(f"`{name}` has adapters on it, which are for its weights as they are: {names}.")
        return None

    def _ended(self, push: Push, is_paused: bool, task: asyncio.Task[Pushed]) -> None:
        self.push, self._runs = None, False
        slot = push.request.slot
        if task.cancelled():
            push.request.weights.close()
            push.ended.cancel()
            return
        crash = task.exception()
        if crash is not None:  # the supervisor: a defect of one push costs the slot, which is started again
            log.error("the push to %s crashed", push.request.model.id, exc_info=crash)
            slot.condemn()
            _count("failed", push.request, None)
            settle(push, EngineReloadFailed(f"the push crashed: {type(crash).__name__}: {crash}"))
            return
        pushed = task.result()
        if pushed.error is None:
            request = push.request
            self.ledger.become(slot, request.model, request.reference, request.version, request.weights)
            log.info("%s has version %d (%.0f ms paused)", slot.model.id, slot.version.number, pushed.paused_ms)
        else:
            push.request.weights.close()
        if not pushed.restored or slot.dead:
            slot.condemn()
        elif not is_paused:
            self.ledger.serve(slot)
            self.gate.open(slot)
        self.versions.announce()
        _count("failed" if pushed.error is not None else "pushed", push.request, pushed)
        if not push.ended.done():
            push.ended.set_result(pushed)


def settle(push: Push, error: GatewayError) -> None:
    """It is not done, and its weights are of no use."""
    push.request.weights.close()
    if not push.ended.done():
        push.ended.set_exception(error)


def _count(outcome: str, request: PushRequest, pushed: Pushed | None) -> None:
    PUSHES.labels(outcome=outcome).inc()
    checked = request.weights.checked
    PUSHED_BYTES.inc(checked.bytes if checked is not None else 0)
    if pushed is None:
        return
    PUSH_PAUSE.observe(pushed.paused_ms / 1000)
    if pushed.error is None:
        PUSHED_AT.set_to_current_time()
    if pushed.proof is not None:
        PROOFS.labels(kind=pushed.proof.kind, passed=str(pushed.proof.passed).lower()).inc()
        if pushed.proof.mean_abs_diff is not None:
            PROOF_DIFFERENCE.labels(model=model_label(request.model.id)).set(pushed.proof.mean_abs_diff)
