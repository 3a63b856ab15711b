"""What all ways to switch share: the facts, the clocks, the drain, and the result.

A way to switch loads and proves, and says how that ended. It turns no gate and changes no list of what is loaded: the
pool, which starts it, does that from its outcome, at once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.errors import DrainFailed, GatewayError, ProofFailed
from gateway.serving.adapter import Adapter
from gateway.serving.slot import Loaded, Slot, StartEngine
from gateway.serving.switching.plan import Method
from gateway.serving.switching.target import Target
from stepserve.contract import ActivateRequest, ActivateResult, Proof


@dataclass(frozen=True, slots=True)
class Outcome:
    """`serves` is the active model from now on; None: nothing is, and `down` may say why. With `error` it is what
    served before.

    `keep`: the slot that was active before stays loaded. `unfit`: a loaded slot that failed its proof, and has to go.
    """

    serves: Loaded | None
    proof: Proof | None = None
    error: GatewayError | None = None
    down: str | None = None
    keep: bool = False
    unfit: Slot | None = None


@dataclass(slots=True)
class Transaction:
    """One switch. Times are measured here: held (new requests wait) and paused (nobody is being answered).

    `running` is the active model and `before` what it takes to load it again. `candidate`: the target's slot, where it
    is loaded already. `twin`: that slot, where the target gets a new engine all the same; nobody enters it meanwhile.
    `surplus`: an adapter that leaves for the target's. `room` returns when no other engine starts.
    """

    start_engine: StartEngine
    request: ActivateRequest
    method: Method
    room: Callable[[], Awaitable[None]]
    running: Loaded | None = None
    before: Target | None = None
    candidate: Slot | None = None
    twin: Slot | None = None
    surplus: Adapter[Slot] | None = None
    clock_s: Callable[[], float] = time.monotonic
    target: Target = field(init=False)
    in_flight: int = field(default=0, init=False)
    previous: str | None = field(default=None, init=False)
    _started_s: float = field(init=False)
    _held_at_s: float | None = field(default=None, init=False)
    _paused_at_s: float | None = field(default=None, init=False)
    _held_s: float = field(default=0.0, init=False)
    _paused_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._started_s = self.clock_s()
        self.target = Target(self.request.model, self.request.reference, self.request.base_reference)
        self.previous = self.running.model.id if self.running is not None else None
        self._count()

    @property
    def slot(self) -> Slot | None:
        """The active model's slot at the start."""
        return self.running.host if self.running is not None else None

    @property
    def holds(self) -> bool:
        """Whether new requests wait while it runs."""
        return self.method in {"in_place", "restart"}

    def hold(self) -> None:
        self._held_at_s = self.clock_s()
        self._count()

    def _count(self) -> None:
        self.in_flight = sum(each.host.in_flight for each in (self.running, self.twin) if each is not None)

    def pause(self) -> None:
        self._paused_at_s = self.clock_s()

    async def drain(self, *slots: Slot) -> None:
        """Returns when no request is inside any of them any more. Raises DrainFailed."""
        request = self.request
        emptied = await asyncio.gather(*(slot.drained(request.in_flight, request.timeout_s) for slot in slots))
        if not all(emptied):
            raise DrainFailed(sum(slot.in_flight for slot in slots), request.timeout_s)

    async def mount(self, slot: Slot) -> tuple[Loaded, Proof]:
        """The target on an engine that has its weights already, for which `surplus` leaves. Raises LOAD_FAILURES."""
        if self.surplus is not None:
            await self.surplus.front.detach()
        return await self.target.mount(slot)

    def unchanged(self, error: GatewayError, unfit: Slot | None = None) -> Outcome:
        """It failed, and nothing happened to what served before, unless it died by itself."""
        alive = self.running is not None and not self.running.dead
        return Outcome(self.running if alive else None, error=error, unfit=unfit)

    def stop_clocks(self) -> None:
        """New requests are answered again, or refused."""
        now_s = self.clock_s()
        if self._held_at_s is not None:
            self._held_s, self._held_at_s = self._held_s + now_s - self._held_at_s, None
        if self._paused_at_s is not None:
            self._paused_s, self._paused_at_s = self._paused_s + now_s - self._paused_at_s, None

    def result(self, outcome: Outcome) -> ActivateResult:
        self.stop_clocks()
        error, proof = outcome.error, outcome.proof
        if isinstance(error, ProofFailed):
            proof = error.proof
        serves = outcome.serves if error is not None else None
        return ActivateResult(
            status="activated" if error is None else "failed",
            id=self.target.model.id,
            previous=self.previous,
            method=self.method,
            paused_ms=round(self._paused_s * 1000, 2),
            held_ms=round(self._held_s * 1000, 2),
            total_ms=round((self.clock_s() - self._started_s) * 1000, 2),
            in_flight=self.in_flight,
            proof=proof,
            error=str(error) if error is not None else None,
            rolled_back_to=serves.model.id if serves is not None else None,
        )
