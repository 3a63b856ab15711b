"""How much memory is free where engines live: the first GPU, or the host (its container's limit counts)."""

import asyncio
import time

import psutil
import pynvml

from gateway.serving.switching.plan import ENGINE_OVERHEAD_BYTES, Memory
from stepserve.cgroup import Cgroup
from stepserve.settings import EngineSettings

_GIB = 1024**3
_GPU_SETTLES_WITHIN_S = 5.0
_GPU_POLL_S = 0.2


def memory_for_one_more(settings: EngineSettings) -> Memory:
    """Free bytes, and what one more engine takes beside its weights. Reads NVML and the kernel; does not block."""
    gpu = _gpu_bytes()
    if gpu is None:
        return Memory(host_free_bytes(), settings.cpu_kv_cache_gib * _GIB + ENGINE_OVERHEAD_BYTES)
    total_bytes, free_bytes = gpu
    # vLLM takes this share of the whole card for every engine, weights included.
    return Memory(free_bytes, int(settings.gpu_memory_utilization * total_bytes))


async def memory_back() -> None:
    """Waits, bounded, until a GPU shows what ended processes had on it as free: drivers take a moment.

    On the host there is nothing to wait for, once the processes are gone.
    """
    before = await asyncio.to_thread(_gpu_bytes)
    deadline_s = time.monotonic() + _GPU_SETTLES_WITHIN_S
    while before is not None and time.monotonic() < deadline_s:
        await asyncio.sleep(_GPU_POLL_S)
        after = await asyncio.to_thread(_gpu_bytes)
        if after is None or after[1] <= before[1]:
            return
        before = after


def _gpu_bytes() -> tuple[int, int] | None:
    try:
        pynvml.nvmlInit()
        memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError:
        return None
    return int(memory.total), int(memory.free)


def host_free_bytes() -> int:
    """Free memory of the machine, or of the container where that has less."""
    available: int = psutil.virtual_memory().available
    cgroup = Cgroup()
    limit, used = cgroup.memory_limit_bytes(), cgroup.memory_used_bytes()
    return available if limit is None or used is None else min(available, limit - used)
