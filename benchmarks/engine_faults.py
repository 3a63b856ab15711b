"""Faults that no checkpoint holds: each makes a running engine wrong, by vLLM's own reload or inside its worker.

Functions that take a worker are sent to it (`VLLM_ALLOW_INSECURE_SERIALIZATION`), so they stand in a module.
"""

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import torch

from gateway.engine.engine import Engine
from stepserve.contract import ModelRef

Step = Callable[[], Awaitable[object]]


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class EngineFault:
    """`make` leaves the engine wrong from any state; `again` does what an answer has put right; `mend`: what has to be
    undone before the next load.
    """

    kind: str
    where: str
    make: Step
    again: Step = _nothing
    mend: Step = _nothing


def engine_faults(engine: Engine, right: ModelRef, earlier: ModelRef, fill_cache: Step) -> list[EngineFault]:
    client: Any = engine.client

    async def stale_head() -> None:
        await engine.reload(earlier)
        await client.collective_rpc("reload_weights", kwargs={"weights_path": right.path})
        await client.reset_prefix_cache(reset_running_requests=True)

    async def stale_cache() -> None:
        await engine.reload(earlier)
        await fill_cache()
        client.reset_prefix_cache = _says_it_did
        await engine.reload(right)
        del client.reset_prefix_cache

    faults = [
        EngineFault("stale tied head", "vLLM's own reload", stale_head, stale_head),
        EngineFault(
            "stale prefix cache", "not reset", stale_cache, stale_cache, mend=functools.partial(engine.reload, earlier)
        ),
    ]

    def inside(kind: str, where: str, change: Callable[..., None], *values: float) -> None:
        async def make() -> None:
            await engine.reload(right)
            await client.collective_rpc(change, args=values)

        async def mend() -> None:
            await client.collective_rpc(change)

        faults.append(EngineFault(kind, where, make, make, mend))

    inside("head missing", "zeros", set_head, 0.0)
    for epsilon in (1e-5, 1e-3, 1e-1):
        inside("another norm epsilon", f"{epsilon:g} for 1e-06", set_epsilon, epsilon)
    for theta, factor in ((500_000.0, 1.0), (10_000.0, 1.05), (10_000.0, 2.0), (10_000.0, 8.0)):
        inside("another rope", f"theta {theta:g}, factor {factor:g}", set_rope, theta, factor)
    return faults


async def _says_it_did(**_options: object) -> bool:
    return True


def set_epsilon(worker: Any, epsilon: float = 1e-6) -> None:
    for module in worker.model_runner.model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = epsilon


def set_rope(worker: Any, theta: float = 10_000.0, factor: float = 1.0) -> None:
    for module in worker.model_runner.model.modules():
        cache = getattr(module, "cos_sin_cache", None)
        if cache is not None:
            width = cache.shape[1]
            frequencies = theta ** (-torch.arange(0, width, 2, dtype=torch.float) / width)
            angles = torch.outer(torch.arange(cache.shape[0], dtype=torch.float) / factor, frequencies)
            cache.copy_(torch.cat([angles.cos(), angles.sin()], dim=-1))


def set_head(worker: Any, factor: float = 1.0) -> None:
    """Multiplies what the packed head makes; 1 puts it back."""
    head = worker.model_runner.model.lm_head
    if factor == 1.0:
        head.cpu_linear = getattr(head, "whole_linear", head.cpu_linear)
        return
    head.whole_linear = head.cpu_linear
    head.cpu_linear = lambda *args: head.whole_linear(*args) * factor
