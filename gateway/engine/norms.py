"""RMS norms on the CPU by vLLM's own C++ kernels, which vLLM itself passes over there: it counts on its compiler.

An engine on the CPU is not compiled (that takes a compiler on the machine, and minutes before the first token), so a
norm would be half a dozen passes of PyTorch over the activations. A kernel does it in one. Where the processor has no
AVX-512 the kernels cut a bfloat16 off instead of rounding it, which moves a model's log-probabilities twice as far as
rounding does; there they compute in float32, and PyTorch rounds.
"""

# ruff: noqa: ARG001 - vLLM refuses an implementation, or its `supports_args`, that lacks one of its arguments

from functools import cache
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
    if x.dtype == torch.bfloat16 and cuts_off():
        return _in_float32(x.float(), weight, epsilon).to(x.dtype)
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
    if x.dtype == torch.bfloat16 and cuts_off():
        both = x.float().add_(x_residual)
        x_residual.copy_(both)
        x.copy_(_in_float32(both, weight, epsilon))
        return x, x_residual
    kernels.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual


@cache
def cuts_off() -> bool:
    """Whether these kernels make no bfloat16 larger than it is in float32: rounding would, every other time."""
    row = torch.linspace(-3, 3, 128).to(torch.bfloat16).view(1, -1)
    weight = torch.ones(row.shape[-1], dtype=row.dtype)
    made = torch.empty_like(row)
    kernels.rms_norm(made, row, weight, 1e-6)
    return bool((made.float().abs() <= _in_float32(row.float(), weight, 1e-6).abs()).all())


def _in_float32(x: torch.Tensor, weight: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    """[..., size] of float32 -> the same. The weight may be of another type."""
    output = torch.empty(x.shape, dtype=x.dtype)
    kernels.rms_norm(output, x.contiguous(), weight.float() if weight is not None else None, epsilon)
    return output


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
