"""A base of one tensor and LoRA adapters for it, or for another one."""

import json
import struct
from pathlib import Path
from typing import Any

from tests.integration.control_plane import ControlPlane
from tests.unit.control.checkpoint_files import write_checkpoint

BASE_SHAPE = (64, 32)
Shapes = dict[str, tuple[int, ...]]


def write_tensors(file: Path, shapes: Shapes) -> None:
    header: dict[str, Any] = {}
    position = 0
    for name, shape in shapes.items():
        size = 4
        for n in shape:
            size *= n
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(position))


def write_base(here: ControlPlane, name: str = "base") -> None:
    folder = write_checkpoint(here.layout.models / name)
    write_tensors(folder / "model.safetensors", {"model.layers.0.o_proj.weight": BASE_SHAPE})


def write_adapter(
    folder: Path,
    *,
    rank: int = 8,
    shape: tuple[int, int] = BASE_SHAPE,
    module: str = "o_proj",
    prefix: str = "",
    **config: Any,
) -> Path:
    folder.mkdir()
    whole = {"peft_type": "LORA", "base_model_name_or_path": "acme/base", "r": rank, "bias": "none"} | config
    (folder / "adapter_config.json").write_text(json.dumps(whole))
    prefix = prefix or f"base_model.model.model.layers.0.{module}"
    outputs, inputs = shape
    shapes: Shapes = {f"{prefix}.lora_A.weight": (rank, inputs), f"{prefix}.lora_B.weight": (outputs, rank)}
    write_tensors(folder / "adapter_model.safetensors", shapes)
    return folder
