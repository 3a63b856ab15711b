"""What a checkpoint is beside its weights' values, as hashes: a pure function of what was read of its files.

Two checkpoints with equal signatures differ in the values of their tensors alone, so an engine that serves one can
take the other's tensors and then answers as a fresh engine would.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from control.checkpoints.shard import Tensor
from stepserve.contract import Signature

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

# These count by what they say; every other file counts byte by byte.
READ_FILES = (CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG)

# vLLM reads default sampling parameters from generation_config.json when it starts, so it counts as configuration.
_CONFIG_FILES = frozenset({CONFIG, GENERATION_CONFIG, "quantize_config.json", "hf_quant_config.json"})

# Keys that change neither the layout of the weights nor what is computed with them.
_IDLE_KEYS = frozenset({
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "use_cache", "gradient_checkpointing",
    "global_step", "trainer_state", "training_args", "training_state", "optimizer_state", "unsloth_version",
    "unsloth_fixed",
})  # fmt: skip
_IDLE_TOKENIZER_KEYS = _IDLE_KEYS | {"tokenizer_file", "special_tokens_map_file", "cache_dir"}


def signature(
    *,
    architecture: str,
    quantization: str | None,
    weights_bytes: int,
    tensors: Iterable[Tensor],
    objects: Mapping[str, dict[str, Any]],
    file_shas: Mapping[str, str],
) -> Signature:
    """`objects` are the contents of those of READ_FILES that are there; `file_shas` hash every content file."""
    others = {name: sha for name, sha in file_shas.items() if name not in READ_FILES}
    settings: dict[str, object] = {name: sha for name, sha in others.items() if name in _CONFIG_FILES}
    settings |= {name: _plain(value, _IDLE_KEYS) for name, value in objects.items() if name in _CONFIG_FILES}
    tokenizer: dict[str, object] = {name: sha for name, sha in others.items() if name not in _CONFIG_FILES}
    if TOKENIZER_CONFIG in objects:
        tokenizer[TOKENIZER_CONFIG] = _plain(objects[TOKENIZER_CONFIG], _IDLE_TOKENIZER_KEYS)
    return Signature(
        architecture=architecture,
        config_sha=_sha(settings),
        tokenizer_sha=_sha(tokenizer),
        tensors_sha=_sha(sorted([tensor.name, tensor.dtype, list(tensor.shape)] for tensor in tensors)),
        weights_bytes=weights_bytes,
        quantization=quantization,
    )


def _plain(value: Mapping[str, Any], idle: frozenset[str]) -> dict[str, Any]:
    """Without the idle keys, in the configs inside it too; `torch_dtype` is the old name of `dtype`."""
    kept = {key: inner for key, inner in value.items() if key not in idle and key != "torch_dtype"}
    dtype = value.get("dtype") or value.get("torch_dtype")
    if dtype is not None:
        kept["dtype"] = dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype
    for key, inner in kept.items():
        if key.endswith("_config") and isinstance(inner, dict):
            kept[key] = _plain(inner, idle)
    return kept


def _sha(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
