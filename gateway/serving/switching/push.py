"""Push: tensors that lie in memory are written into the live parameters, proved, and taken back where that fails."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from gateway.errors import DrainFailed, GatewayError, ProofFailed
from gateway.serving.slot import Slot
from gateway.serving.switching.in_place import load_and_prove, make_ready, put_back
from gateway.serving.weights.staged import StagedWeights
from stepserve.contract import InFlightPolicy, MemberSwitch, ModelRef, Proof, Reference, WeightsVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PushRequest:
    """`weights` have been checked: they are `model`'s, which is the one that `slot` has, with another digest.
    `files_digest` is that of its registered files.

    `changed`: how many of all `tensors` have other bytes than what serves. `reference`: what the trainer says that they
    must answer.
    """

    slot: Slot
    before: ModelRef
    model: ModelRef
    files_digest: str
    version: WeightsVersion
    weights: StagedWeights
    changed: int
    tensors: int
    reference: Reference | None = None
    in_flight: InFlightPolicy = "finish"
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Pushed:
    """How a push ended: `error` None, or what served before serves again (`restored`), or the engine is lost.
    `gateways`: how it went on each of a fleet.
    """

    paused_ms: float
    held_ms: float
    in_flight: int
    proof: Proof | None = None
    error: GatewayError | None = None
    restored: bool = True
    gateways: tuple[MemberSwitch, ...] = ()


async def prepare(request: PushRequest) -> None:
    """Before requests wait: what the push needs and does not need the running model for."""
    await make_ready(request.slot, request.model, request.reference, request.weights)


@dataclass(slots=True)
class PushTransaction:
    """New requests are held from its making on, until the pool takes its outcome; or `is_paused`: for longer, and
    those inside are drained or frozen already.
    """

    request: PushRequest
    is_paused: bool = False
    clock_s: Callable[[], float] = time.monotonic
    _held_at_s: float = field(init=False)
    _paused_at_s: float | None = field(default=None, init=False)
    _in_flight: int = field(init=False)

    def __post_init__(self) -> None:
        self._held_at_s = self.clock_s()
        self._in_flight = self.request.slot.in_flight

    async def run(self) -> Pushed:
        """After `prepare`, where that was called."""
        asked, slot = self.request, self.request.slot
        keeps = asked.in_flight == "keep" and not self.is_paused
        if not keeps and not self.is_paused and not await slot.drained(asked.in_flight, asked.timeout_s):
            with suppress(GatewayError):  # which who serves will find out
                await slot.engine.unstage()
            return self._outcome(error=DrainFailed(slot.in_flight, asked.timeout_s))
        self._paused_at_s = self.clock_s()
        async with slot.reloading():
            try:
                if keeps:
                    await slot.engine.freeze()
                proof = await self._take()
                if keeps:
                    await slot.engine.resume()
            except GatewayError as error:
                return await self._taken_back(error, resume=keeps)
        return self._outcome(proof=proof)

    async def _take(self) -> Proof:
        """Raises as `load_and_prove`."""
        asked, engine = self.request, self.request.slot.engine
        before = await engine.answers() if asked.reference is None else []
        proof = await load_and_prove(asked.slot, asked.model, asked.reference, asked.weights)
        if asked.reference is not None:
            return proof
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

    async def _taken_back(self, error: GatewayError, *, resume: bool) -> Pushed:
        slot = self.request.slot
        name = self.request.model.id
        log.error("the push of version %d of %s failed: %s", self.request.version.number, name, error)
        try:
            await put_back(slot, error)
            if resume:  # nothing was computed for them meanwhile
                await slot.engine.resume()
        except GatewayError as again:
            log.error("version %d of %s cannot be put back either: %s", slot.version.number, name, again)
            slot.end_batches()
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
