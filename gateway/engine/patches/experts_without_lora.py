"""Layers of experts take no LoRA weights, and on the CPU their kernels are chosen as if no engine had adapters."""

from typing import Any

from gateway.engine.patches.patch import Patch


def choose_kernels_without_lora() -> None:
    """For this process, which is a worker's."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig

    chosen = FusedMoEConfig.__post_init__

    def without_lora(config: Any) -> None:
        config.is_lora_enabled = False
        chosen(config)

    FusedMoEConfig.__post_init__ = without_lora


PATCH = Patch(
    name="experts_without_lora",
    changes="`FusedMoEConfig.is_lora_enabled` is false on the CPU.",
    why="Wherever adapters are allowed vLLM takes kernels for experts that have LoRA weights, whether or not experts"
    " are among the modules that may have some. They are Triton's, which a CPU does not have.",
    without="On the CPU an engine with experts that takes adapters would die at its first forward pass.",
    gain="Not a matter of speed.",
    goes_when="vLLM chooses kernels by the modules that may have LoRA weights, or has such kernels for the CPU.",
    required=True,
    targets={
        "vllm.model_executor.layers.fused_moe.config:FusedMoEConfig.__post_init__": "6d0ffa65096c",
        "vllm.model_executor.layers.fused_moe.oracle.unquantized": "eb37b993cfde",
    },
    in_worker=choose_kernels_without_lora,
)
