"""Whether one more engine has memory, and who would have to leave for it: of the host, where there are no cards."""

from collections.abc import Collection, Sequence
from typing import Protocol

import psutil

from gateway.serving.slot import Engine, Slot, StartEngine, StartPlaced
from stepserve.cgroup import Cgroup
from stepserve.contract import ModelRef
from stepserve.engine_arguments import nodes_of, ranks_of
from stepserve.engine_load import load_of
from stepserve.settings import EngineSettings

_GIB = 1024**3

# What the processes of an engine take on the host beside weights and KV cache (measured: 1.1 GB without a GPU).
ENGINE_OVERHEAD_BYTES = 1_500_000_000


class Memory(Protocol):
    """Says what the machine has now, and waits for nothing but in `watch` and `study`. `gone`: slots that are taken for
    ended.
    """

    async def watch(self) -> None:
        """Keeps what is known of the machine fresh, until cancelled."""
        ...

    async def study(self, model: ModelRef) -> None:
        """To be called before a model is asked about: whatever has to be read of its files is read in a thread."""
        ...

    def shortage(self, model: ModelRef, gone: Collection[Slot] = ()) -> str | None:
        """Why one more engine with this model has no memory; None when it has, or when that is not known."""
        ...

    def leavers(self, model: ModelRef, slots: Sequence[Slot], gone: Collection[Slot] = ()) -> list[Slot] | None:
        """Those of `slots`, which are in the order in which they had better leave, whose end may make room for it.

        Empty: there is room. None: there would be none if all of them left.
        """
        ...

    def more(self, model: ModelRef) -> int:
        """How many more engines with this model there is room for."""
        ...


class HostMemory:
    """What an ended engine gives back is not known before it has ended."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings

    async def watch(self) -> None:
        """Nothing to do: the system tells what is free at once."""

    async def study(self, model: ModelRef) -> None:
        """Nothing to read: the model's size came with it."""

    def shortage(self, model: ModelRef, gone: Collection[Slot] = ()) -> str | None:
        if gone:
            return None
        if model.signature is None:
            return "the size of the candidate is not known"
        needed, free = self._needed_bytes(model), host_free_bytes()
        if needed > free:
            return f"a second engine needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
        return None

    def leavers(self, model: ModelRef, slots: Sequence[Slot], gone: Collection[Slot] = ()) -> list[Slot] | None:
        if self.shortage(model, gone) is None:
            return []
        return list(slots) if slots and model.signature is not None else None

    def more(self, model: ModelRef) -> int:
        return max(0, host_free_bytes() // self._needed_bytes(model))

    def starts(self, start_engine: StartPlaced) -> StartEngine:
        """Engines by `start_engine`, without a card."""

        async def start(model: ModelRef) -> Engine:
            return await start_engine(model, None)

        return start

    def _needed_bytes(self, model: ModelRef) -> int:
        settings = self._settings.with_overrides(model.engine)
        cache_bytes = load_of(settings).kv_cache_bytes or settings.cpu_kv_cache_gib * _GIB
        weights_bytes = model.signature.weights_bytes if model.signature is not None else 0
        return weights_bytes // nodes_of(settings.args) + ranks_of(settings.args) * cache_bytes + ENGINE_OVERHEAD_BYTES


def host_free_bytes() -> int:
    """Free memory of the machine, or of the container where that has less."""
    available: int = psutil.virtual_memory().available
    cgroup = Cgroup()
    limit, used = cgroup.memory_limit_bytes(), cgroup.memory_used_bytes()
    return available if limit is None or used is None else min(available, limit - used)
