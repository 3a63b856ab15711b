"""What `/health` says of the first GPU, read from NVML; a machine without one is no error."""

from dataclasses import asdict, dataclass

import pynvml

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class GpuHealth:
    available: bool
    device_count: int = 0
    device_name: str | None = None
    memory_allocated_gb: float = 0.0
    memory_reserved_gb: float = 0.0
    current_device: int | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Nvml:
    """Opens NVML once; a driver that appears later needs a restart."""

    def __init__(self) -> None:
        try:
            pynvml.nvmlInit()
            self._count = int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError:
            self._count = 0

    def health(self) -> GpuHealth:
        if not self._count:
            return GpuHealth(available=False)
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            name = str(pynvml.nvmlDeviceGetName(handle))
        except pynvml.NVMLError:
            return GpuHealth(available=False, device_count=self._count)
        used_gb = round(int(memory.used) / _GIB, 3)
        return GpuHealth(
            available=True,
            device_count=self._count,
            device_name=name,
            memory_allocated_gb=used_gb,
            memory_reserved_gb=used_gb,
            current_device=0,
        )
