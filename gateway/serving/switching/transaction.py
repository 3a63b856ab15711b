"""What all ways to switch share: the gate, the clock, the drain, and the result."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.errors import GatewayError, ProofFailed
from gateway.serving.gate import Gate
from gateway.serving.slot import Slot, StartEngine
from gateway.serving.switching.plan import Method
from stepserve.contract import ActivateRequest, ActivateResult, Proof


@dataclass(frozen=True, slots=True)
class Outcome:
    """`slot` serves from now on. `retired` serves no more, and is to be drained and ended by whoever gets this; `kept`
    stays loaded beside.
    """

    result: ActivateResult
    slot: Slot | None
    retired: Slot | None = None
    kept: Slot | None = None


@dataclass(slots=True)
class Transaction:
    """One switch. Times are measured here: held (new requests wait) and paused (nobody is being answered)."""

    gate: Gate
    start_engine: StartEngine
    request: ActivateRequest
    method: Method
    running: Slot | None
    clock_s: Callable[[], float] = time.monotonic
    in_flight: int = field(default=0, init=False)
    previous: str | None = field(default=None, init=False)
    _started_s: float = field(init=False)
    _held_at_s: float | None = field(default=None, init=False)
    _paused_at_s: float | None = field(default=None, init=False)
    _held_s: float = field(default=0.0, init=False)
    _paused_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._started_s = self.clock_s()
        if self.running is not None:
            self.in_flight, self.previous = self.running.in_flight, self.running.model.id

    def hold(self) -> None:
        self.gate.hold()
        self._held_at_s = self.clock_s()

    def pause(self) -> None:
        self._paused_at_s = self.clock_s()

    def open(self, slot: Slot) -> None:
        slot.phase = "ready"
        self.gate.open(slot)
        self._stop_clocks()

    def down(self, reason: str) -> None:
        self.gate.down(reason, 10.0)
        self._stop_clocks()

    async def drain(self, slot: Slot) -> bool:
        """True when no request is inside any more; False leaves the slot as it was, its gate open again."""
        slot.phase = "draining"
        if slot.dead:
            return True
        if self.request.in_flight == "abort":
            await slot.abort_requests()
        if await slot.emptied(self.request.timeout_s):
            return True
        self.open(slot)
        return False

    def activated(self, slot: Slot, proof: Proof, retired: Slot | None = None) -> Outcome:
        return Outcome(self._result("activated", proof=proof), slot, retired)

    def drain_failed(self, slot: Slot) -> Outcome:
        left = f"{slot.in_flight} requests still run after {self.request.timeout_s:g} s"
        error = f"{left}; nothing was changed. Try a longer timeout_s, or in_flight=abort."
        return Outcome(self._result("failed", error=error, back_to=slot), slot)

    def failed(self, error: GatewayError, back_to: Slot | None) -> Outcome:
        proof = error.proof if isinstance(error, ProofFailed) else None
        return Outcome(self._result("failed", proof=proof, error=str(error), back_to=back_to), back_to)

    def _stop_clocks(self) -> None:
        now_s = self.clock_s()
        if self._held_at_s is not None:
            self._held_s, self._held_at_s = self._held_s + now_s - self._held_at_s, None
        if self._paused_at_s is not None:
            self._paused_s, self._paused_at_s = self._paused_s + now_s - self._paused_at_s, None

    def _result(
        self, status: str, *, proof: Proof | None = None, error: str | None = None, back_to: Slot | None = None
    ) -> ActivateResult:
        self._stop_clocks()
        return ActivateResult.model_validate(
            {
                "status": status,
                "id": self.request.model.id,
                "previous": self.previous,
                "method": self.method,
                "paused_ms": round(self._paused_s * 1000, 2),
                "held_ms": round(self._held_s * 1000, 2),
                "total_ms": round((self.clock_s() - self._started_s) * 1000, 2),
                "in_flight": self.in_flight,
                "proof": proof,
                "error": error,
                "rolled_back_to": back_to.model.id if back_to else None,
            }
        )
