"""Blocks of the KV cache are written over with zeros before a request gets them, on the CPU.

Its attention multiplies what stands in the unused rows of a block by zero, and NaN stays NaN. So one request whose
numbers were not finite would spoil the answers of whoever gets its blocks next, which may be anybody's.
"""

from typing import Any

from gateway.engine.patches.patch import Patch


def clean_blocks() -> None:
    """For this process, which is an engine's or a worker's. With a GPU it stays as vLLM has it."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    KVCacheConfig.needs_kv_cache_zeroing = property(lambda _: True)
    CPUModelRunner._init_kv_zero_meta = _nothing  # what vLLM's kernel for GPUs would want to know
    CPUModelRunner._zero_block_ids = zero_blocks


def _nothing(_runner: Any) -> None:
    pass


def zero_blocks(runner: Any, block_ids: list[int]) -> None:
    """In place of vLLM's, which leaves out layers with a sliding window and takes each block by itself."""
    import torch
    from vllm.v1.kv_cache_interface import AttentionSpec

    layers = runner.compilation_config.static_forward_context
    groups = [each for each in runner.kv_cache_config.kv_cache_groups if isinstance(each.kv_cache_spec, AttentionSpec)]
    caches = [layers[name].kv_cache for group in groups for name in group.layer_names if name in layers]
    rows = torch.tensor(block_ids)
    for cache in {each.data_ptr(): each for each in caches if isinstance(each, torch.Tensor)}.values():
        cache.index_fill_(0, rows, 0)


PATCH = Patch(
    name="clean_blocks",
    changes="`KVCacheConfig.needs_kv_cache_zeroing` is true on the CPU, whose worker zeroes new blocks of every layer.",
    why="The CPU's attention multiplies the unused rows of a block by zero, where NaN stays NaN. vLLM zeroes the blocks"
    " of caches of several types alone.",
    without="On the CPU one request whose numbers are not finite spoils the answers of whoever gets its blocks next.",
    gain="Not a matter of speed: zeroing a block costs what writing it does (decision 36).",
    goes_when="vLLM's attention on the CPU reads no unused rows, or it zeroes every new block.",
    targets={
        "vllm.v1.kv_cache_interface:KVCacheConfig": "0e1903f83a1a",
        "vllm.v1.worker.cpu_model_runner:CPUModelRunner._zero_block_ids": "93e5ea9760f4",
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner._init_kv_zero_meta": "09ba01502a0b",
    },
    in_engine=clean_blocks,
    in_worker=clean_blocks,
)
