"""Which modules of a model may take LoRA weights: all its matrices but those at its two ends, and experts.

With a LoRA layer around lm_head, a request for prompt log-probabilities kills the engine (vLLM 0.32 on the CPU: the
layer expects as many rows as tokens are sampled). Proofs and scores are such requests, so vLLM is told the others.
For experts the CPU has no kernels that take LoRA weights (gateway.engine.patches.experts_without_lora).
"""

from pathlib import Path

from safetensors import safe_open

from stepserve.contract import ModelRef
from stepserve.settings import EngineSettings

_ENDS = ("lm_head", "embed", "wte", "wpe", "norm")
_EXPERTS = "experts"  # a part of the names of their matrices


def lora_flags(model: ModelRef, settings: EngineSettings) -> list[str]:
    """The `vllm serve` flags for adapters; none where they are switched off."""
    if not settings.max_loras:
        return []
    return [
        "--enable-lora",
        f"--max-loras={settings.max_loras}",
        f"--max-lora-rank={settings.max_lora_rank}",
        "--lora-target-modules",
        *target_modules(Path(model.path)),
    ]


def target_modules(checkpoint: Path) -> list[str]:
    """The last parts of the names of the modules that have a matrix. Reads the headers of the shards."""
    found: set[str] = set()
    for shard in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(shard, framework="np") as tensors:
            names: list[str] = tensors.keys()
            for name in names:
                module = name.rpartition(".")[0].rpartition(".")[2]
                is_left_out = any(end in module for end in _ENDS) or _EXPERTS in name.split(".")
                if not is_left_out and len(tensors.get_slice(name).get_shape()) > 1:
                    found.add(module)
    return sorted(found)
