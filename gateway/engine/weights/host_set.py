"""In the worker: the tensors of a checkpoint, read into the host's memory before a reload copies them to the device."""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class HostSet:
    """`worker` takes over what was read when it was made; `repack` follows vLLM's own reload. The memory is pinned, so
    that a device can copy from it by itself.
    """

    def __init__(self, worker: Any, weights: Iterable[tuple[str, torch.Tensor]], repack: Callable[[Any], None]) -> None:
        self._worker = worker
        self._repack = repack
        self._tensors = [(name, tensor.pin_memory()) for name, tensor in weights]

    def take_over(self) -> None:
        """Copies and processes them as any reload does. Raises what vLLM raises: the weights are a mixture then."""
        self._worker.reload_weights(weights_iterator=iter(self._tensors))
        self._repack(self._worker.model_runner.model)

    def release(self) -> None:
        """Gives the memory back."""
        self._tensors.clear()
