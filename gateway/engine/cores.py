"""Which cores each rank of a model computes on, without a GPU.

vLLM takes a NUMA node for each rank and refuses a machine with fewer; here the cores are shared out among the ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Core:
    """A logical processor, with the physical core and the NUMA node that it is of."""

    number: int
    physical: int
    node: int


def binding(ranks: int, cores: Sequence[Core]) -> str | None:
    """As vLLM's VLLM_CPU_OMP_THREADS_BIND has it, `0,1|2,3`: as many parts as ranks, next to each other.

    One logical processor of each physical core is taken, as vLLM does, where that is enough. None: vLLM's own way, for
    one rank, or where there is a node for each. Raises ValueError for fewer cores than ranks.
    """
    if ranks == 1 or len({core.node for core in cores}) >= ranks:
        return None
    if len(cores) < ranks:
        raise ValueError(f"{ranks} ranks need as many cores, and there are {len(cores)}")
    last = {(core.node, core.physical): core for core in sorted(cores, key=lambda core: core.number)}
    chosen = list(last.values()) if len(last) >= ranks else list(cores)
    ordered = [core.number for core in sorted(chosen, key=lambda core: (core.node, core.number))]
    size, larger = divmod(len(ordered), ranks)
    parts = []
    for rank in range(ranks):
        taken = size + (rank < larger)
        parts.append(",".join(str(number) for number in ordered[:taken]))
        ordered = ordered[taken:]
    return "|".join(parts)
