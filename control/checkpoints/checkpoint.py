"""A checkpoint: files in a folder, whole or not. Looks and never changes anything; knows no database."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.checkpoints.architecture import GENERATES, check_architecture
from control.checkpoints.chat_templates import check_templates, has_template
from control.checkpoints.completeness import missing_parts
from control.checkpoints.digest import digest, file_shas
from control.checkpoints.digest_cache import DigestCache
from control.checkpoints.json_file import MOST_INDEX_BYTES, json_if_any, read_json, read_object
from control.checkpoints.layout import INDEX, refuse_consolidated, refuse_gguf
from control.checkpoints.shard import Tensor, read_tensors
from control.checkpoints.signature import READ_FILES, signature
from control.checkpoints.vector_model import MODULES, check_modules
from control.errors import Invalid
from stepserve.contract import Signature

WEIGHTS = "model.safetensors"
_TOKENIZERS = (
    ("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",),
    ("sentencepiece.bpe.model",), ("tekken.json",),
)  # fmt: skip
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_KERNELS = (
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation",
    "_experts_implementation", "_experts_implementation_internal",
)  # fmt: skip
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`path` is absolute with links resolved; `size_bytes` is the weights' alone; `step` is the trainer's.

    `wants_code`: config.json names Python code of its own (auto_map) for the model. `has_template`: whether it brings a
    chat template; None where it lacks one and is not known to generate text.
    """

    path: Path
    architecture: str
    dtype: str | None
    quantization: str | None
    size_bytes: int
    context_length_tokens: int | None
    step: int | None
    vocab_size: int | None
    digest: str
    signature: Signature
    model_type: str | None = None
    wants_code: bool = False
    has_template: bool | None = None


def inspect(path: Path, cache: DigestCache) -> Checkpoint:
    """Reads and checks the folder. Blocks: every byte not in `cache` is read once, in pieces.

    Raises Invalid saying which file is missing, torn or wrong.
    """
    folder = path.resolve()
    if not folder.is_dir():
        raise Invalid(f"the folder {path} does not exist")
    refuse_gguf(folder)
    if not (folder / "config.json").is_file():
        raise Invalid(f"config.json is missing in {path}")
    config = read_object(folder / "config.json")
    architectures = config.get("architectures")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        raise Invalid("config.json names no architectures")
    check_architecture(architectures)
    check_no_kernels(config)
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        raise Invalid(f"the tokenizer is missing in {path}: no tokenizer.json, tokenizer.model or vocabulary file")
    if (folder / MODULES).is_file():
        check_modules(read_json(folder / MODULES), folder)
    refuse_consolidated(folder)
    check_templates(folder)
    shards = _shards(folder)
    tensors = [tensor for members in shards.values() for tensor in members]
    lost = missing_parts(config, tensors, with_head=not (folder / MODULES).is_file())
    if lost is not None:
        raise Invalid(f"the weights in {path} are not complete: {lost}")
    size_bytes = sum(file.stat().st_size for file in shards)
    quantization = quantization_of(config)
    checkpoint = Checkpoint(
        path=folder,
        architecture=architectures[0],
        dtype=_dtype(config),
        quantization=quantization,
        size_bytes=size_bytes,
        context_length_tokens=_number(config, _CONTEXT_KEYS),
        vocab_size=_number(config, ("vocab_size",)),
        step=_step(folder),
        digest=digest(folder, shards, cache),
        signature=signature(
            architecture=architectures[0],
            quantization=quantization,
            weights_bytes=size_bytes,
            tensors=[tensor for members in shards.values() for tensor in members],
            objects={name: read_object(folder / name) for name in READ_FILES if (folder / name).is_file()},
            file_shas=file_shas(folder, cache),
        ),
        model_type=str(config.get("model_type")),
        wants_code=bool(config.get("auto_map")),
        has_template=brings_template(folder, architectures[0]),
    )
    cache.save()
    return checkpoint


def brings_template(folder: Path, architecture: str) -> bool | None:
    """None where it brings no chat template and is not known to generate text. Blocks. Raises Invalid."""
    if has_template(folder):
        return True
    generates = architecture.endswith(GENERATES) and not (folder / MODULES).is_file()
    return False if generates else None


def check_no_kernels(config: Mapping[str, Any]) -> None:
    """Raises Invalid for a config.json that names kernels of a hub: code, which transformers would fetch and run."""
    for place in (config, *(part for part in config.values() if isinstance(part, dict))):
        for key in _KERNELS:
            if "/" in str(place.get(key) or ""):
                raise Invalid(f"config.json: {key} names kernels of a hub, which are code: {str(place[key])[:100]!r}")


def tensors_of(folder: Path) -> list[Tensor]:
    """All tensors of a checkpoint that was inspected before. Blocks; reads headers alone. Raises Invalid."""
    return [tensor for members in _shards(folder).values() for tensor in members]


def _shards(folder: Path) -> dict[Path, list[Tensor]]:
    """The files the engine will load: those the index names, else model.safetensors, which must then be alone."""
    if (folder / INDEX).is_file():
        return _indexed_shards(folder)
    present = sorted(file.name for file in folder.glob("*.safetensors"))
    if WEIGHTS in present:
        strangers = [name for name in present if name != WEIGHTS]
        if strangers:
            raise Invalid(f"{strangers[0]} lies beside {WEIGHTS} and no {INDEX} names the files of the model")
        return {folder / WEIGHTS: _not_empty(folder / WEIGHTS)}
    if present:
        raise Invalid(f"{INDEX} is missing: {present[0]} is there, but no file names the shards of the model")
    for pattern in _PICKLES:
        for file in sorted(folder.glob(pattern)):
            raise Invalid(f"{file.name} is a pickle: safetensors are required ({WEIGHTS} or {INDEX})")
    raise Invalid(f"the weights are missing in {folder}: neither {WEIGHTS} nor {INDEX} is there")


def _indexed_shards(folder: Path) -> dict[Path, list[Tensor]]:
    weight_map = read_object(folder / INDEX, MOST_INDEX_BYTES).get("weight_map")
    if not (isinstance(weight_map, dict) and weight_map and all(isinstance(v, str) for v in weight_map.values())):
        raise Invalid(f"{INDEX} has no weight_map")
    shards: dict[Path, list[Tensor]] = {}
    homes: dict[str, str] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or name.startswith("."):
            raise Invalid(f"{INDEX} names {name!r}, which is not a file of this folder")
        if not (folder / name).is_file():
            raise Invalid(f"{name} is missing, {INDEX} names it")
        shards[folder / name] = _not_empty(folder / name)
        for tensor in shards[folder / name]:
            if tensor.name in homes:
                raise Invalid(f"{tensor.name} is in two shards, {homes[tensor.name]} and {name}")
            homes[tensor.name] = name
    for tensor_name, name in weight_map.items():
        if homes.get(tensor_name) != name:
            raise Invalid(f"{name} lacks the tensor {tensor_name}, which {INDEX} places there")
    return shards


def _not_empty(file: Path) -> list[Tensor]:
    tensors = read_tensors(file)
    if not tensors:
        raise Invalid(f"{file.name} holds no tensors")
    return tensors


def _dtype(config: dict[str, Any]) -> str | None:
    value = config.get("dtype") or config.get("torch_dtype")
    return value if isinstance(value, str) else None


def quantization_of(config: Mapping[str, Any]) -> str | None:
    """What a config.json calls the way its weights are quantised; None when they are not."""
    value = config.get("quantization_config")
    if not value:
        return None
    method = value.get("quant_method") if isinstance(value, dict) else None
    return str(method or "unknown")


def _number(config: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    text_config = config.get("text_config")
    for source in (config, text_config if isinstance(text_config, dict) else {}):
        for key in keys:
            if type(source.get(key)) is int:
                return int(source[key])
    return None


def _step(folder: Path) -> int | None:
    """The trainer's step, when it left one; a broken trainer_state.json does not stop a model from serving."""
    state = json_if_any(folder / "trainer_state.json", MOST_INDEX_BYTES)
    step = state.get("global_step") if isinstance(state, dict) else None
    return step if type(step) is int else None
