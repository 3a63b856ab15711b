"""The one place that calls NVML. What a card does not support is None, and is not asked for again."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import pynvml

from control.telemetry.cards import Card, CardProcess, NoCards, PowerRange, PowerRefused

log = logging.getLogger(__name__)

T = TypeVar("T")
_MIB = 1024**2

# Bits of nvmlDeviceGetCurrentClocksEventReasons that mean less than full speed although there is work (nvml.h).
_THROTTLE_REASONS = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}


class Nvml:
    """Implements CardReader. `library` is pynvml, or something that plays back what it said."""

    def __init__(self, library: Any = pynvml) -> None:
        self._nvml = library
        self._handles: list[Any] = []
        self._fixed: dict[int, dict[str, Any]] = {}
        self._unsupported: set[tuple[int, str]] = set()
        self.driver_version: str | None = None

    def read(self) -> list[Card]:
        if not self._handles:
            self._open()
        try:
            return [self._card(index, handle) for index, handle in enumerate(self._handles)]
        except self._nvml.NVMLError as error:
            self._handles.clear()  # a driver that was loaded anew needs new handles
            raise NoCards(f"NVML failed: {error}") from error

    def set_power_limit(self, index: int, watts: float) -> None:
        try:
            if not self._handles:
                self._open()
            self._nvml.nvmlDeviceSetPowerManagementLimit(self._handles[index], round(watts * 1000))
        except (self._nvml.NVMLError, NoCards, IndexError) as error:
            raise PowerRefused(f"NVML: {error}") from error

    def _open(self) -> None:
        nvml = self._nvml
        try:
            nvml.nvmlInit()
            count = int(nvml.nvmlDeviceGetCount())
            self.driver_version = str(nvml.nvmlSystemGetDriverVersion())
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        except nvml.NVMLError as error:
            raise NoCards(f"NVML is not available: {error}") from error
        if not handles:
            raise NoCards("NVML finds no GPU")
        self._handles = handles
        self._fixed = {index: self._fixed_facts(index, handle) for index, handle in enumerate(handles)}

    def _fixed_facts(self, index: int, handle: Any) -> dict[str, Any]:
        nvml = self._nvml
        limits = self._ask(index, "limits", lambda: nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle))
        default_mw = self._ask(index, "default", lambda: nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle))
        power_range = None
        if limits is not None:
            power_range = PowerRange(limits[0] / 1000, limits[1] / 1000, default_mw / 1000 if default_mw else None)
        return {
            "uuid": self._ask(index, "uuid", lambda: str(nvml.nvmlDeviceGetUUID(handle))),
            "name": self._ask(index, "name", lambda: str(nvml.nvmlDeviceGetName(handle))),
            "power_range": power_range,
        }

    def _card(self, index: int, handle: Any) -> Card:
        nvml = self._nvml
        memory = self._ask(index, "memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        load = self._ask(index, "load", lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        celsius = self._ask(index, "heat", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        draw_mw = self._ask(index, "draw", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        limit_mw = self._ask(index, "limit", lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle))
        energy_mj = self._ask(index, "energy", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        reasons = self._ask(index, "reasons", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        return Card(
            index=index,
            memory_total_mb=_over(memory.total, _MIB) if memory else None,
            memory_used_mb=_over(memory.used, _MIB) if memory else None,
            utilization_gpu=load.gpu if load else None,
            utilization_mem=load.memory if load else None,
            temperature_gpu=celsius,
            power_draw_w=_over(draw_mw, 1000),
            power_limit_w=_over(limit_mw, 1000),
            fan_speed_pct=self._ask(index, "fan", lambda: nvml.nvmlDeviceGetFanSpeed(handle)),
            energy_j=_over(energy_mj, 1000),
            clock_sm_mhz=self._ask(index, "sm", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            clock_mem_mhz=self._ask(index, "mem", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            throttle_reasons=[name for bit, name in _THROTTLE_REASONS.items() if (reasons or 0) & bit],
            processes=self._processes(index, handle),
            **self._fixed[index],
        )

    def _processes(self, index: int, handle: Any) -> list[CardProcess]:
        nvml = self._nvml
        found = self._ask(index, "processes", lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
        return [
            CardProcess(int(process.pid), self._process_name(int(process.pid)), _over(process.usedGpuMemory, _MIB))
            for process in found
        ]

    def _process_name(self, pid: int) -> str | None:
        try:
            return str(self._nvml.nvmlSystemGetProcessName(pid))
        except self._nvml.NVMLError:  # it ended meanwhile, or lives in another container
            return None

    def _ask(self, index: int, fact: str, ask: Callable[[], T]) -> T | None:
        """None for what this card does not have or this user may not see. Raises NVMLError when the card is lost."""
        nvml = self._nvml
        if (index, fact) in self._unsupported:
            return None
        try:
            return ask()
        except nvml.NVMLError as error:
            if error.value in {nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_UNINITIALIZED}:
                raise
            if error.value in {nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION}:
                self._unsupported.add((index, fact))
            return None


def _over(value: float | None, unit: float) -> float | None:
    return None if value is None else round(value / unit, 3)
