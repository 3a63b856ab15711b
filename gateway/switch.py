"""One switch as a transaction: hold, drain, load, prove, commit; or back to what served before."""

import time

from gateway.errors import EngineStartFailed
from gateway.gate import Gate
from gateway.slot import Slot, StartEngine
from switchyard.contract import ActivateRequest, ActivateResult, Proof


class Switch:
    """A switch by `restart`: the old engine ends before the new one starts, and new requests wait meanwhile."""

    def __init__(self, gate: Gate, start_engine: StartEngine, request: ActivateRequest) -> None:
        self._gate = gate
        self._start_engine = start_engine
        self._request = request
        self._started = time.monotonic()

    async def run(self, running: Slot | None) -> tuple[ActivateResult, Slot | None]:
        """How it ended, and the slot that serves now; the gate is open on it, or down when there is none."""
        self._gate.hold()
        held_at = time.monotonic()
        in_flight = running.in_flight if running else 0
        if running is not None and not await self._drain(running):
            self._gate.open(running)
            left = f"{running.in_flight} requests still run after {self._request.timeout_s:.0f} s"
            error = f"{left}; nothing was changed. Try a longer timeout_s, or in_flight=abort."
            return self._result("failed", running, in_flight, held_at, error=error, back_to=running), running
        if running is not None:
            await running.shutdown()
        try:
            candidate, proof = await Slot.load(self._request.model, self._start_engine)
        except EngineStartFailed as error:
            back = await self._reload(running)
            return self._result("failed", running, in_flight, held_at, error=str(error), back_to=back), back
        self._gate.open(candidate)
        return self._result("activated", running, in_flight, held_at, proof=proof), candidate

    async def _drain(self, slot: Slot) -> bool:
        slot.phase = "draining"
        if slot.dead:
            return True
        if self._request.in_flight == "abort":
            await slot.abort_requests()
        emptied = await slot.emptied(self._request.timeout_s)
        if not emptied:
            slot.phase = "ready"
        return emptied

    async def _reload(self, previous: Slot | None) -> Slot | None:
        """Starts what served before, again. None: there was nothing, or it does not come up either."""
        if previous is None:
            self._gate.down(f"`{self._request.model.id}` could not be loaded and no other model is.", 10.0)
            return None
        try:
            back, _ = await Slot.load(previous.model, self._start_engine)
        except EngineStartFailed as error:
            self._gate.down(f"Neither `{self._request.model.id}` nor `{previous.model.id}` loads: {error}", 10.0)
            return None
        self._gate.open(back)
        return back

    def _result(
        self,
        status: str,
        running: Slot | None,
        in_flight: int,
        held_at: float,
        *,
        proof: Proof | None = None,
        error: str | None = None,
        back_to: Slot | None = None,
    ) -> ActivateResult:
        now = time.monotonic()
        return ActivateResult.model_validate(
            {
                "status": status,
                "id": self._request.model.id,
                "previous": running.model.id if running else None,
                "method": "restart",
                "paused_ms": round((now - held_at) * 1000, 1),
                "total_ms": round((now - self._started) * 1000, 1),
                "in_flight": in_flight,
                "proof": proof,
                "error": error,
                "rolled_back_to": back_to.model.id if back_to else None,
            }
        )
