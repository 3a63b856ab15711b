"""Push: tensors that lie in memory are written into the live parameters, proved, and taken back where that fails."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.errors import DrainFailed, GatewayError, ProofFailed
from gateway.serving.slot import Slot
from gateway.serving.switching.in_place import load_and_prove, put_back
from gateway.serving.weights.staged import StagedWeights
from stepserve.contract import InFlightPolicy, ModelRef, Proof, Reference, WeightsVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PushRequest:
    """`weights` have been checked: they are `model`'s, which is the one that `slot` has, with another digest.

    `changed`: how many of all `tensors` have other bytes than what serves. `reference`: what the trainer says that they
    must answer.
    """

    slot: Slot
    before: ModelRef
    model: ModelRef
    version: WeightsVersion
    weights: StagedWeights
    changed: int
    tensors: int
    reference: Reference | None = None
    in_flight: InFlightPolicy = "finish"
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Pushed:
    """How a push ended: `error` None, or what served before serves again (`restored`), or the engine is lost."""

    paused_ms: float
    held_ms: float
    in_flight: int
    proof: Proof | None = None
    error: GatewayError | None = None
    restored: bool = True


@dataclass(slots=True)
class PushTransaction:
    """New requests are held from its making on, until the pool takes its outcome."""

    request: PushRequest
    clock_s: Callable[[], float] = time.monotonic
    _held_at_s: float = field(init=False)
    _paused_at_s: float | None = field(default=None, init=False)
    _in_flight: int = field(init=False)

    def __post_init__(self) -> None:
        self._held_at_s = self.clock_s()
        self._in_flight = self.request.slot.in_flight

    async def run(self) -> Pushed:
        slot, keeps = self.request.slot, self.request.in_flight == "keep"
        if not keeps and not await slot.drained(self.request.in_flight, self.request.timeout_s):
            return self._outcome(error=DrainFailed(slot.in_flight, self.request.timeout_s))
        self._paused_at_s = self.clock_s()
        async with slot.reloading():
            try:
                proof = await self._take(keeps=keeps)
            except GatewayError as error:
                return await self._taken_back(error, keeps=keeps)
        return self._outcome(proof=proof)

    async def _take(self, *, keeps: bool) -> Proof:
        """Raises as `load_and_prove`."""
        asked, engine = self.request, self.request.slot.engine
        compares = asked.reference is None and not keeps
        before = await engine.answers() if compares else []
        if keeps:
            await engine.freeze()
        proof = await load_and_prove(asked.slot, asked.model, asked.reference, asked.weights, resume=keeps)
        if asked.reference is not None:
            return proof
        if not compares:
            why = "requests were kept inside, so the answers were not compared with those before"
            return proof.model_copy(update={"why": why})
        return self._compared(proof, before, await engine.answers())

    def _compared(self, proof: Proof, before: list[list[float]], after: list[list[float]]) -> Proof:
        """Nothing else is computed then and now, so the same weights say exactly the same. Raises ProofFailed."""
        asked = self.request
        share = f"{asked.changed} of {asked.tensors} tensors"
        if not before or 2 * asked.changed <= asked.tensors:
            why = f"{share} are others than before: too few to say that the answers must be others too"
            return proof.model_copy(update={"why": why})
        if before == after:
            reason = f"{share} are others than before, and the model answers exactly as before"
            raise ProofFailed(asked.model.id, proof.model_copy(update={"passed": False, "reason": reason}))
        why = f"no log-probabilities came with the push: the answers are finite, and others than before ({share} are)"
        return proof.model_copy(update={"kind": "changed", "why": why})

    async def _taken_back(self, error: GatewayError, *, keeps: bool) -> Pushed:
        slot = self.request.slot
        name = self.request.model.id
        log.error("the push of version %d of %s failed: %s", self.request.version.number, name, error)
        try:
            if keeps:  # they may have gone on with what failed
                slot.end_batches()
                await slot.abort_requests()
            await put_back(slot, error, resume=keeps)
        except GatewayError as again:
            log.error("version %d of %s cannot be put back either: %s", slot.version.number, name, again)
            await slot.abort_requests()
            return self._outcome(error=error, restored=False)
        return self._outcome(error=error)

    def _outcome(
        self, *, proof: Proof | None = None, error: GatewayError | None = None, restored: bool = True
    ) -> Pushed:
        now_s = self.clock_s()
        paused_s = now_s - self._paused_at_s if self._paused_at_s is not None else 0.0
        if isinstance(error, ProofFailed):
            proof = error.proof
        return Pushed(
            paused_ms=round(paused_s * 1000, 2),
            held_ms=round((now_s - self._held_at_s) * 1000, 2),
            in_flight=self._in_flight,
            proof=proof,
            error=error,
            restored=restored,
        )
