"""Plays back what NVML says of a card, in NVML's own units and errors: the seam of control.telemetry.nvml."""

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

MIB = 1024**2


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__({3: "Not Supported", 4: "Insufficient Permissions", 15: "GPU is lost"}.get(value, str(value)))
        self.value = value


NOT_SUPPORTED, NO_PERMISSION, GPU_IS_LOST = 3, 4, 15

# A data-centre card: no fan, an energy counter, a power range. Milliwatts, millijoules, bytes, MHz.
H200: dict[str, Any] = {
    "nvmlDeviceGetName": "NVIDIA H200",
    "nvmlDeviceGetUUID": "GPU-6f6a1e0b-0000-0000-0000-000000000001",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=143771 * MIB, used=4031 * MIB, free=139740 * MIB),
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37, memory=12),
    "nvmlDeviceGetTemperature": 41,
    "nvmlDeviceGetPowerUsage": 214_370,
    "nvmlDeviceGetPowerManagementLimit": 700_000,
    "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
    "nvmlDeviceGetPowerManagementLimitConstraints": [200_000, 700_000],
    "nvmlDeviceGetFanSpeed": NVMLError(NOT_SUPPORTED),
    "nvmlDeviceGetTotalEnergyConsumption": 1_000_000,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x1 | 0x4,
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=77, usedGpuMemory=4000 * MIB)],
}

# A consumer card of an older driver: a fan, and little else.
GTX: dict[str, Any] = {
    "nvmlDeviceGetName": "NVIDIA GeForce GTX 750 Ti",
    "nvmlDeviceGetUUID": "GPU-6f6a1e0b-0000-0000-0000-000000000002",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=2048 * MIB, used=300 * MIB, free=1748 * MIB),
    "nvmlDeviceGetTemperature": 55,
    "nvmlDeviceGetFanSpeed": 33,
    "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=78, usedGpuMemory=None)],
}


class RecordedNvml:
    """Stands where pynvml does. `cards` may be changed between two readings; a value that is an error is raised."""

    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED = NOT_SUPPORTED
    NVML_ERROR_NO_PERMISSION = NO_PERMISSION
    NVML_ERROR_GPU_IS_LOST = GPU_IS_LOST
    NVML_ERROR_UNINITIALIZED = 1
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2

    def __init__(self, *cards: dict[str, Any]) -> None:
        self.cards = [dict(card) for card in cards]
        self.calls: Counter[str] = Counter()
        self.missing: NVMLError | None = None
        self.may_set = True

    def nvmlInit(self) -> None:
        if self.missing is not None:
            raise self.missing

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65.06"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlSystemGetProcessName(self, pid: int) -> str:
        if pid != 77:
            raise NVMLError(6)
        return "python"

    def nvmlDeviceSetPowerManagementLimit(self, index: int, milliwatts: int) -> None:
        if not self.may_set:
            raise NVMLError(NO_PERMISSION)
        self.cards[index]["nvmlDeviceGetPowerManagementLimit"] = milliwatts

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def answer(index: int, *_: int) -> Any:
            self.calls[name] += 1
            value = self.cards[index].get(name, NVMLError(NOT_SUPPORTED))
            if isinstance(value, NVMLError):
                raise value
            return value() if callable(value) else value

        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)
        return answer
