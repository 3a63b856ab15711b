"""How much memory is free where engines live: the first GPU, or the host (its container's limit counts)."""

import psutil
import pynvml

from gateway.plan import ENGINE_OVERHEAD_BYTES, Memory
from switchyard.cgroup import Cgroup
from switchyard.settings import EngineSettings

_GIB = 1024**3


def memory_for_one_more(settings: EngineSettings) -> Memory:
    """Free bytes, and what one more engine takes beside its weights. Reads NVML and the kernel; does not block."""
    gpu = _gpu_bytes()
    if gpu is None:
        return Memory(_host_free_bytes(), settings.cpu_kv_cache_gib * _GIB + ENGINE_OVERHEAD_BYTES)
    total_bytes, free_bytes = gpu
    # vLLM takes this share of the whole card for every engine, weights included.
    return Memory(free_bytes, int(settings.gpu_memory_utilization * total_bytes))


def _gpu_bytes() -> tuple[int, int] | None:
    try:
        pynvml.nvmlInit()
        memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError:
        return None
    return int(memory.total), int(memory.free)


def _host_free_bytes() -> int:
    available: int = psutil.virtual_memory().available
    cgroup = Cgroup()
    limit, used = cgroup.memory_limit_bytes(), cgroup.memory_used_bytes()
    return available if limit is None or used is None else min(available, limit - used)
