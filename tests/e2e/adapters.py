"""LoRA adapters for the demo's model, made by hand: one that changes nothing and one that changes everything."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LAYERS, HIDDEN, HEADS_DIM, KV_DIM = 3, 128, 128, 64
TARGETS = {"q_proj": HEADS_DIM, "v_proj": KV_DIM}


def write_adapter(folder: Path, *, strength: float, rank: int = 8, base: str = "demo", seed: int = 0) -> None:
    """With `strength` nought the answers are the base's; with 1 they are of no use."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA", "base_model_name_or_path": base, "r": rank, "lora_alpha": rank, "bias": "none",
        "target_modules": sorted(TARGETS), "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    chance = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for target, width in TARGETS.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            down = chance.normal(0.0, 1.0, (rank, HIDDEN))
            up = strength * chance.normal(0.0, 1.0, (width, rank))
            tensors[f"{prefix}.lora_A.weight"] = down.astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = up.astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
