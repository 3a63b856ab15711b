"""Room for models that are spread over nodes: a node carries out one order at a time, so each takes free ones."""

from collections.abc import Collection, Sequence

from gateway.nodes.head import Nodes
from gateway.serving.memory import Memory
from gateway.serving.slot import Slot
from stepserve.contract import ModelRef


class NodesMemory:
    """Implements Memory: that of this machine, and the other nodes, which are taken to have as much as this one."""

    def __init__(self, here: Memory, nodes: Nodes) -> None:
        self._here = here
        self._nodes = nodes

    async def watch(self) -> None:
        await self._here.watch()

    async def study(self, model: ModelRef) -> None:
        await self._here.study(model)

    def shortage(self, model: ModelRef, gone: Collection[Slot] = ()) -> str | None:
        if (shortage := self._here.shortage(model, gone)) is not None:
            return shortage
        needed, free = self._nodes.others(model), self._free(gone)
        if needed <= free:
            return None
        return f"it needs {needed} other nodes, and {free} of the {self._nodes.joined} that have joined are free"

    def leavers(self, model: ModelRef, slots: Sequence[Slot], gone: Collection[Slot] = ()) -> list[Slot] | None:
        leaving = self._here.leavers(model, slots, gone)
        if leaving is None:
            return None
        needed = self._nodes.others(model)
        rest = [slot for slot in slots if slot not in leaving and slot.engine.other_nodes]
        while self._free([*gone, *leaving]) < needed:
            if not rest:
                return None
            leaving.append(rest.pop(0))
        return leaving

    def more(self, model: ModelRef) -> int:
        more, needed = self._here.more(model), self._nodes.others(model)
        return min(more, self._nodes.free // needed) if needed else more

    def _free(self, gone: Collection[Slot]) -> int:
        return self._nodes.free + sum(slot.engine.other_nodes for slot in gone)
