"""Weights in shared memory, without a name: gone when nobody needs them, or when this process ends, however it ends."""

import os
from pathlib import Path

from gateway.serving.weights.check import Checked


class StagedWeights:
    """A file that engines on this machine can open at `path` while it is not closed: safetensors, one or several.

    `checked` is what was found in it; None before that.
    """

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("stepserve-weights", os.MFD_CLOEXEC)
        self.checked: Checked | None = None

    @property
    def path(self) -> Path:
        return Path(f"/proc/{os.getpid()}/fd/{self.descriptor}")

    def duplicate(self) -> "StagedWeights":
        """The same memory, for somebody who needs it longer."""
        other = object.__new__(StagedWeights)
        other.descriptor, other.checked = os.dup(self.descriptor), self.checked
        return other

    def close(self) -> None:
        """Gives the memory back, once nobody else has it open."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()
