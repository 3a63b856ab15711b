"""A LoRA adapter: files in a folder, and whether they fit a base checkpoint. Looks and never changes anything."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.checkpoints.adapter_kinds import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_kind, check_place, misfit
from control.checkpoints.digest import digest
from control.checkpoints.digest_cache import DigestCache
from control.checkpoints.json_file import read_object
from control.checkpoints.shard import Tensor, read_tensors
from control.errors import Invalid

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class Adapter:
    """`base_name` is what the trainer called the base; `shapes` are each module's (inputs, outputs)."""

    path: Path
    base_name: str | None
    rank: int
    shapes: Mapping[str, tuple[int, int]]
    size_bytes: int
    digest: str


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def inspect_adapter(path: Path, cache: DigestCache) -> Adapter:
    """Blocks. Raises Invalid naming the file that is missing, torn or wrong."""
    folder = path.resolve()
    config = _config(folder)
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        pickle = folder / "adapter_model.bin"
        hint = f": {pickle.name} is a pickle" if pickle.is_file() else ""
        raise Invalid(f"{ADAPTER_WEIGHTS} is missing in {path}{hint}")
    tensors = read_tensors(file)
    shapes, rank = _shapes(tensors)
    content = digest(folder, {file: tensors}, cache)
    settings = {name: config.get(name) for name in ("lora_alpha", "alpha_pattern", "use_rslora", "r", "rank_pattern")}
    text = json.dumps([content, settings], sort_keys=True)
    cache.save()
    base_name = config.get("base_model_name_or_path")
    return Adapter(
        path=folder,
        base_name=base_name if isinstance(base_name, str) else None,
        rank=rank,
        shapes=shapes,
        size_bytes=file.stat().st_size,
        digest=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}",
    )


def adapted_digest(adapter: Adapter, base_digest: str) -> str:
    """The digest of what answers: this adapter on that base."""
    return f"sha256:{hashlib.sha256(f'{adapter.digest} on {base_digest}'.encode()).hexdigest()}"


def check_fits(adapter: Adapter, base_id: str, base: Iterable[Tensor]) -> None:
    """Raises Invalid naming the first tensor that has no place in the base's checkpoint."""
    places = {tensor.name: tensor.shape for tensor in base}
    for module, (inputs, outputs) in sorted(adapter.shapes.items()):
        found = places.get(f"{module}.weight")
        if found is None:
            raise Invalid(f"{ADAPTER_WEIGHTS}: base_model {base_id} has no {module}, which the adapter changes")
        if tuple(found) != (outputs, inputs):
            raise Invalid(
                f"{ADAPTER_WEIGHTS}: {module} is {outputs} x {inputs} for the adapter and"
                f" {' x '.join(map(str, found))} in base_model {base_id}: it was trained on another base"
            )


def check_rank(adapter: Adapter, max_loras: int, max_rank: int) -> None:
    """Raises Invalid when the engine is not set up for the adapter."""
    if max_loras == 0:
        raise Invalid("adapters are switched off: set INFERENCE_ENGINE__MAX_LORAS to how many a model may have at once")
    if adapter.rank > max_rank:
        raise Invalid(
            f"{ADAPTER_CONFIG}: the adapter's rank is {adapter.rank}, the engine's limit is {max_rank}"
            " (INFERENCE_ENGINE__MAX_LORA_RANK)"
        )


def _config(folder: Path) -> dict[str, Any]:
    config = read_object(folder / ADAPTER_CONFIG)
    check_kind(config)
    return config


def _shapes(tensors: list[Tensor]) -> tuple[dict[str, tuple[int, int]], int]:
    """Each module's (inputs, outputs), and the highest rank."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor in tensors:
        match = _TENSOR.fullmatch(tensor.name)
        if match is None or len(tensor.shape) != 2:
            raise misfit(tensor.name)
        check_place(tensor.name)
        sides.setdefault(match["module"], {})[match["side"]] = tensor.shape
    shapes = {}
    rank = 0
    for module, pair in sides.items():
        if pair.keys() != {"A", "B"} or pair["A"][0] != pair["B"][1]:
            raise Invalid(f"{ADAPTER_WEIGHTS}: the two matrices of {module} do not go together")
        shapes[module] = (pair["A"][1], pair["B"][0])
        rank = max(rank, pair["A"][0])
    if not shapes:
        raise Invalid(f"{ADAPTER_WEIGHTS} holds no tensors")
    return shapes, rank
