"""A LoRA adapter on a slot: it answers under its own id, on the slot's engine, and goes when the slot goes."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from gateway.errors import EngineStartFailed, ProofFailed
from gateway.http.asgi import App, Receive, Scope, Send
from gateway.serving.served import Served, ServingEngine
from stepserve.contract import BatchItem, BatchOutput, BatchSampling, ModelRef, Proof, Reference, SlotState


class Front(Protocol):
    """What an adapter needs of an engine; `gateway.engine.adapter.AdapterFront` is the real one."""

    @property
    def app(self) -> App: ...

    async def prove(self, reference: Reference | None) -> Proof: ...

    async def batch(self, items: Sequence[BatchItem], sampling: BatchSampling) -> list[BatchOutput]: ...

    async def detach(self) -> None: ...


class AdapterEngine(ServingEngine, Protocol):
    """An engine that takes adapters: `max_adapters` of them at a time."""

    @property
    def max_adapters(self) -> int: ...

    async def attach(self, model: ModelRef) -> Front: ...


class AdapterHost(Protocol):
    """What an adapter needs of the slot that it is on; `gateway.serving.slot.Slot` is the real one."""

    adapters: "dict[str, Adapter]"
    attaching: asyncio.Lock

    @property
    def engine(self) -> AdapterEngine: ...

    @property
    def dead(self) -> bool: ...

    @property
    def names(self) -> list[str]: ...

    def answering(self, name: str) -> Served | None: ...

    def busy_switching(self) -> AbstractContextManager[None]: ...

    def state(self, *, active: bool) -> SlotState: ...

    async def serve(self, scope: Scope, receive: Receive, send: Send, adapter: "Adapter | None" = None) -> None: ...

    async def batch(
        self, items: Sequence[BatchItem], sampling: BatchSampling, adapter: "Adapter | None" = None
    ) -> list[BatchOutput]: ...


class Adapter:
    """Requests are inside its slot, which counts, drains and aborts them with its own."""

    def __init__(self, model: ModelRef, host: AdapterHost, front: Front) -> None:
        self.model = model
        self.host = host
        self.front = front
        self.is_active = False
        self.identity_headers = [(b"x-model-id", model.id.encode()), (b"x-model-digest", model.digest.encode())]

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

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.host.serve(scope, receive, send, self)

    async def batch(self, items: Sequence[BatchItem], sampling: BatchSampling) -> list[BatchOutput]:
        return await self.host.batch(items, sampling, self)

    def state(self, *, active: bool) -> SlotState:
        """Its requests are counted in its slot's state."""
        host = self.host.state(active=active)
        return host.model_copy(update={"model": self.model, "in_flight": 0})


async def attach(
    host: AdapterHost,
    model: ModelRef,
    reference: Reference | None,
    on_ready: Callable[[Adapter], None] = lambda _: None,
) -> tuple[Adapter, Proof]:
    """Puts an adapter on the slot of its base, proved; then `on_ready`, then an earlier version of it goes.

    Raises EngineStartFailed (also when the engine takes no more adapters), BadReference, ProofFailed.
    """
    async with host.attaching:
        earlier = host.adapters.get(model.id)
        if earlier is not None and earlier.model.digest == model.digest:
            proof = await earlier.front.prove(reference)
            on_ready(earlier)
            return earlier, proof
        if earlier is None:
            await _make_room(host, model.id)
        with host.busy_switching():  # the engine reads the adapter's files and does nothing else meanwhile
            front = await host.engine.attach(model)
        try:
            proof = await front.prove(reference)
            if not proof.passed:
                raise ProofFailed(model.id, proof)
        except BaseException:
            await front.detach()
            raise
        adapter = host.adapters[model.id] = Adapter(model, host, front)
        on_ready(adapter)
        if earlier is not None:
            await earlier.front.detach()
        return adapter, proof


async def _make_room(host: AdapterHost, name: str) -> None:
    """The oldest adapter that is not the active one goes; who asks for it brings it back."""
    most = host.engine.max_adapters
    if most == 0:
        raise EngineStartFailed(f"`{name}` is an adapter, and the engine takes none (INFERENCE_ENGINE__MAX_LORAS)")
    while len(host.adapters) >= most:
        oldest = next((each for each, adapter in host.adapters.items() if not adapter.is_active), None)
        if oldest is None:
            raise EngineStartFailed(
                f"no room for `{name}`: the engine takes {most} adapters (INFERENCE_ENGINE__MAX_LORAS)"
            )
        await host.adapters.pop(oldest).front.detach()
