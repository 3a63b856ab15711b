"""What an engine for a model is to hold: out of its files, the engine settings, and what somebody has said."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepserve.contract import Quantize
from stepserve.engine_arguments import nodes_of, ranks_of
from stepserve.placement import Load, Shape
from stepserve.settings import EngineSettings

SHARE = 0.9  # of each card, where what a model needs cannot be estimated

_KV_CACHE = "kv_cache_memory_bytes"
_RANKS = ("tensor_parallel_size", "pipeline_parallel_size")
_BITS: Mapping[Quantize, float] = {"q8": 8, "q4": 4.25}  # of a number in a matrix, its scale included
_FULL_BITS = 16
_FILE_BITS = {"float32": 32, "float64": 64}


def shape_of(
    name: str, folder: Path, settings: EngineSettings, quantize: Quantize | None, weights_bytes: int | None = None
) -> Shape:
    """The model as an engine with these `settings` loads it. `weights_bytes`: of its files, where that is known.

    Reads config.json. Raises OSError, and ValueError where nothing can be estimated, in words.
    """
    config = json.loads((folder / "config.json").read_bytes())
    if not isinstance(config, dict):
        raise ValueError(f"config.json of {name} is not an object")  # noqa: TRY004 - of the file, not of an argument
    if weights_bytes is None:
        weights_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    try:
        shape = Shape.of(name, config, weights_bytes)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"config.json of {name} cannot be read: {error}") from error
    return _loaded(shape, config, settings, quantize)


def _loaded(shape: Shape, config: dict[str, Any], settings: EngineSettings, quantize: Quantize | None) -> Shape:
    """With the weights as wide as they are in the engine; vLLM leaves the embeddings out when it quantises."""
    if config.get("quantization_config"):
        return shape
    inner = config.get("text_config") or config
    written = str(config.get("dtype") or config.get("torch_dtype") or inner.get("dtype") or inner.get("torch_dtype"))
    computed = 32 if settings.dtype == "float32" and quantize != "fp16" else _FULL_BITS
    weights = shape.weights_bytes * computed // _FILE_BITS.get(written.removeprefix("torch."), _FULL_BITS)
    if quantize is not None and quantize in _BITS:
        tied = bool(config.get("tie_word_embeddings", inner.get("tie_word_embeddings", False)))
        embeddings = min(weights, shape.vocabulary * shape.hidden * (1 if tied else 2) * computed // 8)
        weights = embeddings + int((weights - embeddings) * _BITS[quantize] / computed)
    return replace(shape, weights_bytes=weights)


def load_of(settings: EngineSettings, devices: Sequence[str] | None = None) -> Load:
    """By the settings of one model's engine. `devices`: it is to be on none but these."""
    args = settings.args
    own = args.get(_KV_CACHE)
    return Load(
        sequences=settings.max_num_seqs,
        max_tokens=settings.max_model_len,
        kv_bits=_kv_bits(settings),
        ranks=ranks_of(args) if any(name in args for name in _RANKS) else None,
        nodes=nodes_of(args),
        devices=tuple(devices) if devices is not None else None,
        kv_cache_bytes=own if isinstance(own, int) else None,
        share=None if isinstance(own, int) else settings.gpu_memory_utilization,
        adapters=settings.max_loras,
        adapter_rank=settings.max_lora_rank,
    )


def unforeseen(args: Mapping[str, Any]) -> str | None:
    """Which engine argument makes an engine take what is not estimated; None: none does."""
    draft = args.get("speculative_config")
    if isinstance(draft, dict) and "model" in draft:
        return "speculative_config.model"
    return next((name for name in ("num_gpu_blocks_override", "cpu_offload_gb") if name in args), None)


def _kv_bits(settings: EngineSettings) -> int:
    if str(settings.args.get("kv_cache_dtype", "auto")).startswith(("fp8", "int8")):
        return 8
    return 32 if settings.dtype == "float32" else _FULL_BITS
