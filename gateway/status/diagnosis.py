"""What /diag says of the cards. Nothing here opens a CUDA context: engines could not start by fork then."""

from typing import Any

import pynvml


def diagnosis() -> dict[str, Any]:
    """Blocks for as long as NVML takes; call it in a thread."""
    devices, driver, problem = _devices()
    return {"driver_version": driver, "devices": devices, "problem": problem}


def _devices() -> tuple[list[dict[str, Any]], str | None, str | None]:
    try:
        pynvml.nvmlInit()
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(int(pynvml.nvmlDeviceGetCount()))]
        return [_device(index, handle) for index, handle in enumerate(handles)], driver, None
    except pynvml.NVMLError as error:
        return [], None, f"NVML: {error}"


def _device(index: int, handle: Any) -> dict[str, Any]:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return {
        "index": index,
        "name": str(pynvml.nvmlDeviceGetName(handle)),
        "compute_capability": f"{major}.{minor}",
        "memory_total_mb": round(int(memory.total) / 1024**2),
        "memory_free_mb": round(int(memory.free) / 1024**2),
    }
