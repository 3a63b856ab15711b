"""Checkpoints made on the fly: a few bytes of real safetensors with all the files an engine would want."""

import json
import struct
from pathlib import Path
from typing import Any

Weights = dict[str, bytes]

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "dtype": "bfloat16",
    "max_position_embeddings": 512,
    "model_type": "qwen3",
}


def weights(seed: int) -> Weights:
    """Three tensors whose bytes depend on the seed."""
    return {f"layer.{n}": bytes([(seed + n) % 256]) * 16 * (n + 1) for n in range(3)}


def write_shard(file: Path, tensors: Weights) -> None:
    header: dict[str, Any] = {}
    position = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))


def write_index(folder: Path, shards: dict[str, Weights]) -> None:
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_checkpoint(folder: Path, seed: int = 0, shards: int = 1) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    tensors = weights(seed)
    if shards == 1:
        write_shard(folder / "model.safetensors", tensors)
        return folder
    names = list(tensors)
    parts = {
        f"model-{n + 1:05}-of-{shards:05}.safetensors": {name: tensors[name] for name in names[n::shards]}
        for n in range(shards)
    }
    for name, part in parts.items():
        write_shard(folder / name, part)
    write_index(folder, parts)
    return folder
