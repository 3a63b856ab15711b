"""Which modules may take LoRA weights, by the names of a checkpoint's matrices."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from gateway.engine.lora import target_modules


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["layers.0.self_attn.q_proj", "layers.0.mlp.up_proj", "embed_tokens", "lm_head"], ["q_proj", "up_proj"]),
        (["layers.0.self_attn.q_proj", "layers.0.mlp.gate", "layers.0.mlp.experts.3.up_proj"], ["gate", "q_proj"]),
        (["layers.0.self_attn.q_proj", "layers.0.block_sparse_moe.experts.0.w1"], ["q_proj"]),
        (["layers.0.mlp.shared_expert.up_proj", "layers.0.mlp.experts.gate_up_proj"], ["up_proj"]),
    ],
)
def test_the_ends_and_experts_are_left_out(names: list[str], found: list[str], tmp_path: Path) -> None:
    tensors: dict[str, NDArray[np.float32]] = {
        f"model.{name}.weight": np.zeros((2, 2), dtype=np.float32) for name in names
    }
    tensors["model.layers.0.input_layernorm.weight"] = np.zeros(2, dtype=np.float32)
    tensors["model.layers.0.self_attn.k_proj.bias"] = np.zeros(2, dtype=np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    assert target_modules(tmp_path) == found


def test_experts_of_one_tensor_without_a_suffix(tmp_path: Path) -> None:
    """As GPT-OSS writes them: one tensor for all experts of a layer."""
    name = "model.layers.0.mlp.experts.gate_up_proj"
    save_file({name: np.zeros((2, 2, 2), dtype=np.float32)}, tmp_path / "model.safetensors")
    assert target_modules(tmp_path) == []
