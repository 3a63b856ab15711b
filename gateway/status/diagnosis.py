"""What /diag says of torch and the cards. Nothing here opens a CUDA context: engines could not start by fork then."""

from typing import Any

import pynvml


def diagnosis() -> dict[str, Any]:
    """Imports torch, which takes seconds the first time; call it in a thread."""
    import torch  # noqa: PLC0415 - takes seconds, and only /diag asks

    devices, driver, problem = _devices()
    return {
        "torch": {
            "version": torch.__version__,
            "cuda_built": torch.version.cuda,
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        "cuda_available": torch.version.cuda is not None and bool(devices),
        "driver_version": driver,
        "devices": devices,
        "problem": problem,
    }


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
