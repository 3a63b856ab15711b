"""Norms by vLLM's kernels, on whatever processor this is."""

import torch
from vllm import ir

from gateway.engine.norms import register_norms

HALF_STEP = 2**-8
"""Of a bfloat16, which has eight bits: as far as rounding moves a number, in units of it."""


def test_a_bfloat16_is_rounded_and_not_cut_off() -> None:
    register_norms("rounding")
    torch.manual_seed(0)
    rows, residual = torch.randn(9, 128).to(torch.bfloat16), torch.randn(9, 128).to(torch.bfloat16)
    weight = torch.randn(128).to(torch.bfloat16)
    made = ir.ops.rms_norm.impls["rounding"].impl_fn(rows, weight, 1e-6).float()
    x = rows.float()
    exact = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight.float()
    assert ((made - exact).abs() <= 2 * HALF_STEP * exact.abs()).all()
    assert (made.abs() > exact.abs()).any(), "half of them are rounded up"

    both = rows.clone(), residual.clone()
    made, summed = (each.float() for each in ir.ops.fused_add_rms_norm.impls["rounding"].impl_fn(*both, weight, 1e-6))
    total = x + residual.float()
    exact = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + 1e-6) * weight.float()
    assert ((summed - total).abs() <= HALF_STEP * total.abs()).all()
    # The kernel may take the sum as it was rounded: one step more.
    assert ((made - exact).abs() <= 4 * HALF_STEP * exact.abs().clamp(min=0.05)).all()
