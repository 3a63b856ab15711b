"""Before a reload: the workers make a checkpoint ready while they answer, where they can and the memory is there."""

import asyncio
import os
from pathlib import Path
from typing import Any, Protocol

from gateway.serving.memory import host_free_bytes
from stepserve.contract import ModelRef

_SPARE_BYTES = 256 * 1024 * 1024
_FIRST_LOOK_S, _LONGEST_S = 0.005, 0.05


class Workers(Protocol):
    """Of vLLM's AsyncLLM."""

    async def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> list[Any]:
        """What each rank's worker returns."""
        ...


async def staged(
    client: Workers, model: ModelRef, weights: Path | None, timeout_s: float, *, copies: int = 1
) -> str | None:
    """Returns when all ranks have the checkpoint, or the file `weights` in place of its own, ready: None; or why they
    have not, and nothing is kept then.

    `copies`: how many of all its weights they make, together. Raises EngineDeadError, and what the workers raise.
    """
    weights_bytes = model.signature.weights_bytes if model.signature is not None else 0
    needed_bytes = copies * weights_bytes + _SPARE_BYTES
    if needed_bytes > (free_bytes := host_free_bytes()):
        return f"{needed_bytes} bytes of memory are needed for that meanwhile, and {free_bytes} are free"
    cpus = sorted(os.sched_getaffinity(0))
    reasons = await client.collective_rpc(
        "stepserve_stage", args=(model.path, str(weights) if weights is not None else None, cpus)
    )
    reason = next(filter(None, reasons), None)
    if reason is None:
        reason = await _outcome(client, timeout_s)
    if reason is not None:
        await client.collective_rpc("stepserve_unstage")
    return reason


async def _outcome(client: Workers, timeout_s: float) -> str | None:
    """Why a rank is not ready; None when all are."""
    interval_s = _FIRST_LOOK_S
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while True:
        await asyncio.sleep(interval_s)
        found = set(await client.collective_rpc("stepserve_staged"))
        if "running" not in found:
            return next(iter(found - {"ready"}), None)
        if asyncio.get_running_loop().time() > deadline_s:
            return f"it was not ready within {timeout_s:.0f} s"
        interval_s = min(_LONGEST_S, 1.5 * interval_s)
