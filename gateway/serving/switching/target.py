"""What is to be loaded: a checkpoint, or an adapter together with the checkpoint that it is for."""

from dataclasses import dataclass

from gateway.serving.adapter import attach, proved
from gateway.serving.slot import Loaded, Slot, StartEngine
from stepserve.contract import ModelRef, Proof, Reference


@dataclass(frozen=True, slots=True)
class Target:
    """`base_reference` is for the checkpoint under an adapter."""

    model: ModelRef
    reference: Reference | None = None
    base_reference: Reference | None = None

    @property
    def host(self) -> ModelRef:
        """The checkpoint whose weights are in the engine."""
        return self.model.base or self.model

    @property
    def host_reference(self) -> Reference | None:
        return self.reference if self.model.base is None else self.base_reference

    @property
    def ids(self) -> frozenset[str]:
        return frozenset({self.model.id, self.host.id})

    async def load(self, start_engine: StartEngine) -> tuple[Loaded, Proof]:
        """A new engine with all of it, proved, that nobody can reach yet.

        Raises EngineStartFailed, BadReference, ProofFailed; no engine is left then.
        """
        slot, proof = await Slot.load(self.host, start_engine, self.host_reference)
        if self.model.base is None:
            return slot, proof
        try:
            return await attach(slot, self.model, self.reference)
        except BaseException:
            await slot.shutdown()
            raise

    async def mount(self, slot: Slot) -> tuple[Loaded, Proof]:
        """The same on an engine that has the checkpoint's weights already. Raises as `load`."""
        if self.model.base is not None:
            return await attach(slot, self.model, self.reference)
        return slot, await proved(slot, self.reference)
