"""The devices of this machine that models can go on: its cards, or its memory and cores."""

import os
import shutil
import subprocess
from pathlib import Path

import psutil

from stepserve.placement import Device

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"

_MIB = 1024 * 1024
_TIMEOUT_S = 10


def devices_here() -> list[Device]:
    """Those that this process may use. Blocks for a moment."""
    return _cards() or [Device("memory", psutil.virtual_memory().available, "cpu")]


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


def _cards() -> list[Device]:
    """As nvidia-smi lists them; none where there is no such program, or no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=index,uuid,memory.free,name", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return cards_in(done.stdout, os.environ.get(VISIBLE_VARIABLE))


def cards_in(listing: str, visible: str | None = None) -> list[Device]:
    """Of lines such as `0, GPU-5c…, 23028, NVIDIA GeForce RTX 3090`; lines without numbers are left out.

    `visible`: as CUDA_VISIBLE_DEVICES has it, numbers or ids of cards in their order. None: all of them.
    """
    lines = [[part.strip() for part in line.split(",", 3)] for line in listing.splitlines()]
    cards = {
        (parts[0], parts[1]): Device(parts[0], int(parts[2]) * _MIB, parts[3])
        for parts in lines
        if len(parts) == 4 and parts[2].isdigit()
    }
    if visible is None:
        return list(cards.values())
    named = filter(None, map(str.strip, visible.split(",")))
    return [card for name in named for (index, uuid), card in cards.items() if name == index or uuid.startswith(name)]
