"""The devices of this machine that models can go on: its cards, or its memory and cores."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pynvml

from stepserve.placement import Device

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"


def devices_here() -> list[Device]:
    """Those that this process may use. Blocks for a moment."""
    return cards(os.environ.get(VISIBLE_VARIABLE)) or [Device("memory", psutil.virtual_memory().available, "cpu")]


def cores_here() -> list[int]:
    """The logical processors that this process may use, those of one physical core next to each other. Blocks."""
    return sorted(os.sched_getaffinity(0), key=lambda core: (*_place_of(core), core))


def _place_of(core: int) -> tuple[int, ...]:
    """Socket and physical core; where the system does not say, every core is one of its own."""
    folder = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        return tuple(int((folder / name).read_text()) for name in ("physical_package_id", "core_id"))
    except (OSError, ValueError):
        return (0, core)


class CardDriver:
    """NVML, opened once; again after it has failed, since a driver may be loaded anew."""

    def __init__(self, nvml: Any = pynvml) -> None:
        self._nvml = nvml
        self._is_open = False

    def cards(self, visible: str | None = None) -> list[Device]:
        """As NVML has them, named by their numbers; none where there is no driver, or one that fails. Blocks.

        A card that is split (MIG) is its parts, named `0:1`, each a kind of its own since no model spans two.
        `visible`: as CUDA_VISIBLE_DEVICES has it, numbers or ids in their order. None: all of them.
        """
        nvml = self._nvml
        try:
            if not self._is_open:
                nvml.nvmlInit()
                self._is_open = True
            found = [device for number in range(int(nvml.nvmlDeviceGetCount())) for device in _parts(number, nvml)]
        except nvml.NVMLError:
            self._is_open = False
            return []
        if visible is None:
            return found
        named = filter(None, map(str.strip, visible.split(",")))
        return [card for name in named for card in found if card.is_called(name)]


def cards(visible: str | None = None, nvml: Any = pynvml) -> list[Device]:
    """As CardDriver has them, for who asks once."""
    return CardDriver(nvml).cards(visible)


def _parts(number: int, nvml: Any) -> Iterator[Device]:
    """The card, or its parts. One whose memory NVML does not tell (it shares the host's) is left out."""
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    kind = str(nvml.nvmlDeviceGetName(handle))
    if not _is_split(handle, nvml):
        yield from _device(str(number), handle, kind, nvml)
        return
    for part in range(int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))):
        try:
            inner = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, part)
        except nvml.NVMLError:  # so many there could be
            continue
        name = f"{number}:{part}"
        yield from _device(name, inner, f"{kind} MIG {name}", nvml)


def _is_split(handle: Any, nvml: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # a card that cannot be
        return False
    return bool(current)


def _device(name: str, handle: Any, kind: str, nvml: Any) -> Iterator[Device]:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError:
        return
    yield Device(name, int(memory.free), kind, str(nvml.nvmlDeviceGetUUID(handle)), int(memory.total))
