"""RMS norms on the CPU by vLLM's own C++ kernels, which vLLM itself passes over there: it counts on its compiler.

An engine on the CPU is not compiled (that takes a compiler on the machine, and minutes before the first token), so a
norm would be half a dozen passes of PyTorch over the activations. A kernel does it in one.
"""

# ruff: noqa: ARG001 - vLLM refuses an implementation, or its `supports_args`, that lacks one of its arguments

from typing import Any

import torch
from vllm import _custom_ops as kernels
from vllm import ir

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Rows are read so many numbers at a time; the kernels raise where that leaves a rest.
_ROW_MULTIPLE = 16


def register_norms(provider: str) -> None:
    """For this process, which is a worker's; vLLM looks here for what the config names when the worker is made."""
    ir.ops.rms_norm.register_impl(provider, supports_args=_fits)(_rms_norm)
    ir.ops.fused_add_rms_norm.register_impl(provider, supports_args=_fits_both, inplace=True)(_fused_add_rms_norm)


def _rms_norm(
    x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
) -> torch.Tensor:
    """[..., size] -> [..., size]. Queries and keys are parts of longer rows, which the kernel takes for adjacent."""
    output = torch.empty(x.shape, dtype=x.dtype)
    kernels.rms_norm(output, x.contiguous(), weight, epsilon)
    return output


def _fused_add_rms_norm(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of both's sum, and the sum: [..., size] each. Writes them where the arguments were."""
    kernels.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual


def _fits(x: Any, weight: Any, epsilon: Any, variance_size: Any = None) -> bool:
    return (
        variance_size is None
        and weight is not None
        and weight.dtype == x.dtype
        and x.dtype in _DTYPES
        and x.shape[-1] % _ROW_MULTIPLE == 0
    )


def _fits_both(x: Any, x_residual: Any, weight: Any, epsilon: Any, variance_size: Any = None) -> bool:
    return (
        _fits(x, weight, epsilon, variance_size)
        and x_residual.dtype == x.dtype
        and x.is_contiguous()
        and x_residual.is_contiguous()
    )
