"""Blocks that a request gets hold nothing of anybody else's."""

import warnings
from types import SimpleNamespace
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of itself while vLLM imports it
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec

    from gateway.engine.patches.clean_blocks import zero_blocks

BLOCKS = 6


def test_new_blocks_of_every_layer_are_written_over() -> None:
    size: dict[str, Any] = {"block_size": 4, "num_kv_heads": 1, "head_size": 8, "dtype": torch.bfloat16}
    full, sliding, shared = (torch.full((BLOCKS, 2, 4, 8), float("nan")) for _ in range(3))
    layers = {"full": full, "also": full, "sliding": sliding, "state": [shared], "shared": shared}
    groups = [
        SimpleNamespace(kv_cache_spec=FullAttentionSpec(**size), layer_names=["full", "also", "not here", "state"]),
        SimpleNamespace(kv_cache_spec=SlidingWindowSpec(**size, sliding_window=8), layer_names=["sliding"]),
    ]
    runner = SimpleNamespace(
        compilation_config=SimpleNamespace(
            static_forward_context={name: SimpleNamespace(kv_cache=cache) for name, cache in layers.items()}
        ),
        kv_cache_config=SimpleNamespace(kv_cache_groups=groups),
    )
    zero_blocks(runner, [1, 4])
    for cache in (full, sliding):
        assert [bool(block.isnan().any()) for block in cache] == [True, False, True, True, False, True]
    assert bool(shared.isnan().all())
