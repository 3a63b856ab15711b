"""What a reload in place leaves behind in vLLM's worker, what of it can be put right, and where it cannot be.

vLLM's reload writes each layer's tensors into the storage that its kernels read, after the layer's own processing has
run again. What a layer packs at its first load alone, or keeps beside its parameters, stays the old checkpoint's: wrong
answers, and nothing that says so. `benchmarks/architectures.py` compares a reload with a fresh engine.
"""

from typing import Any

# Layers with parameters of their own that were found equal to a fresh engine's, to the last bit, after a reload, and
# classes derived from them.
_CARRIED_OVER = frozenset(
    {
        "Attention", "ColumnParallelLinear", "Embedding", "GemmaRMSNorm", "LayerNorm", "MergedColumnParallelLinear",
        "ParallelLMHead", "QKVParallelLinear", "RMSNorm", "ReplicatedLinear", "RowParallelLinear",
        "VocabParallelEmbedding",
    }
)  # fmt: skip


def obstacle(model: Any) -> str | None:
    """Why the running model cannot take another checkpoint's tensors in place, or None when it can."""
    for layer in model.modules():
        # Of layers without parameters, what they hold is computed from config.json, which is the same for both.
        if not any(True for _ in layer.parameters(recurse=False)):
            continue
        name = type(layer).__name__
        if any(kind.__name__ in _CARRIED_OVER for kind in type(layer).__mro__):
            continue
        if (experts := _cpu_experts(layer)) is not None:
            if _is_padded(experts):
                return f"the experts of {name} are padded at load, which a reload does not know"
            continue
        return f"it is not known that a reload carries over all of a layer of type {name}"
    return None


def repack(model: Any) -> None:
    """To be called after vLLM's own reload."""
    _repack_tied_head(model)
    for layer in model.modules():
        if (experts := _cpu_experts(layer)) is not None:
            experts.process_weights_after_loading(layer)


def _repack_tied_head(model: Any) -> None:
    """A tied lm_head is another module than the embedding and shares its storage, so a reload fills it but does not
    process it; its packed copy, which the CPU's kernel multiplies with, would stay.
    """
    head = getattr(model, "lm_head", None)
    if head is None or not hasattr(head, "cpu_linear"):
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm  # noqa: PLC0415 - in the worker alone

    dispatch_cpu_unquantized_gemm(head, remove_weight=False)


def _cpu_experts(layer: Any) -> Any | None:
    """The kernel's side of a layer of experts on the CPU, which packs their weights at the first load alone."""
    kernel = getattr(getattr(layer, "quant_method", None), "moe_kernel", None)
    experts = getattr(kernel, "fused_experts", None)
    if experts is None:
        return None
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts  # noqa: PLC0415 - likewise

    return experts if isinstance(experts, CPUUnquantizedExperts) else None


def _is_padded(experts: Any) -> bool:
    config = experts.moe_config
    padded: int = experts._padded_intermediate_size(config)
    return bool(padded != config.intermediate_size_per_partition)
