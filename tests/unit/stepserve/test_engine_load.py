"""What an engine is to hold, out of a checkpoint's files and the settings."""

import json
from pathlib import Path
from typing import Any

import pytest

from stepserve.engine_load import load_of, shape_of, unforeseen
from stepserve.placement import Load
from stepserve.settings import EngineSettings

CONFIG = {
    "hidden_size": 100, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 1000, "dtype": "bfloat16",
}  # fmt: skip
EMBEDDINGS = 1000 * 100 * 2


@pytest.mark.parametrize(
    ("config", "settings", "quantize", "weights_bytes"),
    [
        ({}, {}, None, 1_000_000),
        ({"torch_dtype": "float32", "dtype": None}, {}, None, 500_000),
        ({}, {"dtype": "float32"}, None, 2_000_000),
        ({}, {}, "q8", 2 * EMBEDDINGS + (1_000_000 - 2 * EMBEDDINGS) // 2),
        ({"tie_word_embeddings": True}, {}, "q8", EMBEDDINGS + (1_000_000 - EMBEDDINGS) // 2),
        ({"quantization_config": {"quant_method": "awq"}, "dtype": "float32"}, {}, None, 1_000_000),
    ],
    ids=["as it is", "narrower", "wider", "eight bits", "tied", "quantised already"],
)
def test_weights_count_as_wide_as_they_are_loaded(
    tmp_path: Path, config: dict[str, Any], settings: dict[str, Any], quantize: Any, weights_bytes: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | config))
    (tmp_path / "model.safetensors").write_bytes(bytes(1_000_000))
    shape = shape_of("m", tmp_path, EngineSettings.model_validate(settings), quantize)
    assert shape.weights_bytes == weights_bytes


@pytest.mark.parametrize("text", ["[]", "{", '{"hidden_size": "wide"}', "{}"])
def test_a_config_that_says_nothing_is_no_crash(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        shape_of("m", tmp_path, EngineSettings(), None, 1)


def test_what_somebody_has_set_is_in_the_load() -> None:
    assert load_of(EngineSettings(max_num_seqs=8, max_model_len=99)) == Load(8, 99, adapter_rank=16)
    given = EngineSettings(
        args={"kv_cache_dtype": "fp8", "tensor_parallel_size": 2, "pipeline_parallel_size": 2}, max_loras=3
    )
    assert load_of(given, ["1"]) == Load(sequences=256, kv_bits=8, ranks=4, devices=("1",), adapters=3, adapter_rank=16)
    assert load_of(EngineSettings(gpu_memory_utilization=0.4)).share == 0.4
    both = load_of(EngineSettings(gpu_memory_utilization=0.4, args={"kv_cache_memory_bytes": 5}))
    assert (both.share, both.kv_cache_bytes) == (None, 5)


def test_arguments_that_no_estimate_knows() -> None:
    assert unforeseen({"speculative_config": {"model": "draft"}}) == "speculative_config.model"
    assert unforeseen({"num_gpu_blocks_override": 9}) == "num_gpu_blocks_override"
    assert unforeseen({"speculative_config": {"method": "ngram"}, "block_size": 32}) is None
