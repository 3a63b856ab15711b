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

_FULL_CACHES = frozenset({"auto", "bfloat16", "float16", "float32"})


def obstacle(model: Any) -> str | None:
    """Why the running model cannot take another checkpoint's tensors in place, or None when it can."""
    for layer in model.modules():
        if (method := _quantising(layer)) is not None:
            return f"the layer {type(layer).__name__} is quantised ({method}), which a reload was not shown to repeat"
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


def obstacle_in(config: Any) -> str | None:
    """The same of what the engine was started with."""
    if config.speculative_config is not None:
        return "a reload leaves the draft model (speculative_config) as it is"
    cache = str(config.cache_config.cache_dtype)
    if cache not in _FULL_CACHES:
        return f"scales of a KV cache in {cache} were not shown to follow a reload"
    return None


def repack(model: Any) -> None:
    """To be called after vLLM's own reload."""
    _repack_tied_head(model)
    for layer in model.modules():
        if (experts := _cpu_experts(layer)) is not None:
            experts.process_weights_after_loading(layer)


def _quantising(layer: Any) -> str | None:
    """The name of vLLM's class that computes with the layer's quantised weights; None where they are not quantised."""
    method = getattr(layer, "quant_method", None)
    if method is None or any(kind.__name__.startswith("Unquantized") for kind in type(method).__mro__):
        return None
    return type(method).__name__


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
