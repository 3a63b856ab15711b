"""What /diag says of the engine's libraries. Opens no CUDA context: engines could not start by fork then."""

from typing import Any

import torch


def torch_build() -> dict[str, Any]:
    return {
        "version": torch.__version__,
        "cuda_built": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
