"""A LoRA adapter on a slot: it answers under its own id, on the slot's engine, and goes when the slot goes."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from gateway.errors import EngineStartFailed, ProofFailed
from gateway.http.asgi import App, Receive, Scope, Send
from gateway.http.error_rendering import Headers
from gateway.serving.served import Served, ServingEngine
from gateway.serving.soundness import Soundness, spoils_cache
from stepserve.contract import (
    BatchItem,
    BatchOutput,
    BatchSampling,
    ModelRef,
    Proof,
    Reference,
    SlotState,
    WeightsVersion,
)


class Front(Protocol):
    """What an adapter needs of an engine; `gateway.engine.adapter.AdapterFront` is the real one."""

    @property
    def app(self) -> App: ...

    async def prove(
        self, reference: Reference | None, *, max_tokens: int | None = None, gently: bool = False
    ) -> Proof: ...

    async def batch(self, items: Sequence[BatchItem], sampling: BatchSampling) -> list[BatchOutput]: ...

    async def detach(self) -> None: ...


class AdapterEngine(ServingEngine, Protocol):
    """An engine that takes adapters: `max_adapters` of them at a time."""

    @property
    def max_adapters(self) -> int: ...

    @property
    def not_finite(self) -> int:
        """How many answers were refused because their numbers were not finite."""
        ...

    async def attach(self, model: ModelRef) -> Front: ...


class AdapterHost(Protocol):
    """What an adapter needs of the slot that it is on; `gateway.serving.slot.Slot` is the real one."""

    adapters: "dict[str, Adapter[Any]]"

    @property
    def engine(self) -> AdapterEngine: ...

    @property
    def dead(self) -> bool: ...

    @property
    def names(self) -> list[str]: ...

    def answering(self, name: str) -> Served | None: ...

    def busy_switching(self) -> AbstractContextManager[None]: ...

    async def cleanse(self) -> None: ...

    async def prove(
        self,
        reference: Reference | None,
        *,
        max_tokens: int | None,
        gently: bool,
        adapter: "Adapter[Any] | None" = None,
    ) -> Proof: ...

    def state(self, *, active: bool) -> SlotState: ...

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, adapter: "Adapter[Any] | None" = None
    ) -> None: ...

    async def batch(
        self, items: Sequence[BatchItem], sampling: BatchSampling, adapter: "Adapter[Any] | None" = None
    ) -> list[BatchOutput]: ...


HostT = TypeVar("HostT", bound=AdapterHost)


def identity_of(model: ModelRef, version: WeightsVersion) -> Headers:
    """Which model gave an answer, as its headers say it."""
    return [
        (b"x-model-id", model.id.encode()),
        (b"x-model-digest", model.digest.encode()),
        (b"x-model-version", str(version.number).encode()),
    ]


class Adapter(Generic[HostT]):
    """Requests are inside its slot, which counts, drains and aborts them with its own."""

    def __init__(self, model: ModelRef, host: HostT, front: Front, reference: Reference | None) -> None:
        self.model = model
        self.host = host
        self.front = front
        self.reference = reference
        self.soundness = Soundness(lambda: host.engine.not_finite)
        self.version = WeightsVersion()  # nothing is pushed to an adapter, nor to what has one
        self.identity_headers = identity_of(model, self.version)

    @property
    def prover(self) -> Front:
        return self.front

    @property
    def dead(self) -> bool:
        return self.host.dead

    def answering(self, name: str) -> Served | None:
        """Who on this engine answers to that id."""
        return self.host.answering(name)

    @property
    def names(self) -> list[str]:
        """The ids that this engine answers to."""
        return self.host.names

    async def prove(self, reference: Reference | None, *, max_tokens: int | None, gently: bool) -> Proof:
        """As Engine.prove, of the adapter as it serves."""
        return await self.host.prove(reference, max_tokens=max_tokens, gently=gently, adapter=self)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.host.serve(scope, receive, send, self)

    async def batch(self, items: Sequence[BatchItem], sampling: BatchSampling) -> list[BatchOutput]:
        return await self.host.batch(items, sampling, self)

    def state(self, *, active: bool) -> SlotState:
        """Its requests are counted in its slot's state."""
        mine = self.soundness
        own = {"health": mine.health, "fault": mine.fault, "proved_at": mine.proved_at, "version": self.version}
        return self.host.state(active=active).model_copy(update={"model": self.model, "in_flight": 0, **own})


def surplus(host: AdapterHost, name: str, *kept: object) -> Adapter[Any] | None:
    """The adapter that has to go so that the engine takes one more of that id: the oldest that is not `kept` (the
    active model, a canary's candidate).

    None: there is room, or an earlier version's place. Raises EngineStartFailed when nothing can go.
    """
    most = host.engine.max_adapters
    if most == 0:
        raise EngineStartFailed(f"`{name}` is an adapter, and the engine takes none (INFERENCE_ENGINE__MAX_LORAS)")
    if name in host.adapters or len(host.adapters) < most:
        return None
    oldest = next((adapter for adapter in host.adapters.values() if adapter not in kept), None)
    if oldest is None:
        raise EngineStartFailed(f"no room for `{name}`: the engine takes {most} adapters (INFERENCE_ENGINE__MAX_LORAS)")
    return oldest


async def attach(host: HostT, model: ModelRef, reference: Reference | None) -> tuple[Adapter[HostT], Proof]:
    """Puts an adapter on the engine of its base, and proves it; one of the same content that is there is proved again.

    The slot does not answer for it yet: that is the pool's to say. Raises EngineStartFailed, BadReference, ProofFailed.
    """
    present: Adapter[HostT] | None = host.adapters.get(model.id)
    if present is not None and present.model.digest == model.digest:
        return present, await proved(present, reference)
    with host.busy_switching():  # the engine reads the adapter's files and does nothing else meanwhile
        front = await host.engine.attach(model)
    try:
        adapter = Adapter(model, host, front, reference)
        return adapter, await proved(adapter, reference)
    except BaseException:
        await front.detach()
        raise


class Prover(Protocol):
    async def prove(self, reference: Reference | None) -> Proof: ...


class Cleansed(Protocol):
    async def cleanse(self) -> None: ...


class Provable(Protocol):
    """A slot, or an adapter on one."""

    reference: Reference | None

    @property
    def soundness(self) -> Soundness: ...

    @property
    def host(self) -> Cleansed: ...

    @property
    def model(self) -> ModelRef: ...

    @property
    def prover(self) -> Prover: ...


async def proved(served: Provable, reference: Reference | None) -> Proof:
    """On an engine that others may be served by: what a failed proof may have spoilt is cleared before this returns.

    Raises EngineStartFailed, BadReference, and ProofFailed where the model answers otherwise than it should.
    """
    proof = await served.prover.prove(reference)
    if not proof.passed:
        if spoils_cache(proof):
            await served.host.cleanse()
        raise ProofFailed(served.model.id, proof)
    if reference is not None:
        served.reference = reference
    served.soundness.note(proof)
    return proof
