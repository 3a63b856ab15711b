"""The devices of this machine that models can go on: its cards, or its memory."""

import shutil
import subprocess

import psutil

from stepserve.placement import Device

_MIB = 1024 * 1024
_TIMEOUT_S = 10


def devices_here() -> list[Device]:
    """Blocks for a moment."""
    return _cards() or [Device("memory", psutil.virtual_memory().available, "cpu")]


def _cards() -> list[Device]:
    """As nvidia-smi lists them; none where there is no such program, or no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=index,memory.free,name", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [card for line in done.stdout.splitlines() if (card := card_in(line)) is not None]


def card_in(line: str) -> Device | None:
    """Of a line such as `0, 23028, NVIDIA GeForce RTX 3090`; None where the numbers are not there."""
    parts = [part.strip() for part in line.split(",", 2)]
    if len(parts) != 3 or not parts[1].isdigit():
        return None
    return Device(parts[0], int(parts[1]) * _MIB, parts[2])
