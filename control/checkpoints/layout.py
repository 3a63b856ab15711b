"""What a folder may hold beside a checkpoint when it is registered: nothing that could be read as another one.

`scp -r step-1500 host:models/current` puts step-1500 *into* a folder that is there already, and a second save leaves
the shards of the first. Either way the older weights would be served without a word.
"""

import re
import shlex
from pathlib import Path

from control.checkpoints.json_file import MOST_INDEX_BYTES, json_if_any
from control.errors import Invalid

INDEX = "model.safetensors.index.json"
_CONFIG, _ADAPTER_CONFIG = "config.json", "adapter_config.json"
_STATE, _ARGUMENTS = "trainer_state.json", "training_args.bin"
_OF_A_TRAINER = re.compile(r"checkpoint-([0-9]+)")
_OTHER_RUNTIMES = ("*.onnx", "openvino_*.xml")


def check_layout(folder: Path) -> None:
    """Blocks. Raises Invalid for a checkpoint inside the folder, and for safetensors that its index does not name."""
    try:
        _refuse_nested(folder)
        _refuse_strangers(folder)
    except OSError as error:
        raise Invalid(f"{folder} cannot be read: {error.strerror}") from error


def refuse_consolidated(folder: Path) -> None:
    """vLLM would load these in place of all others, and the digest is that of the others. Raises Invalid."""
    found = sorted(folder.glob("consolidated*.safetensors"))
    others = sorted(file.name for file in folder.glob("*.safetensors") if file not in found)
    if found and others:
        raise Invalid(
            f"{found[0].name} lies beside {others[0]}: two sets of weights, of which the engine would load"
            f" {found[0].name}; remove the one that is not meant"
        )


def refuse_gguf(folder: Path) -> None:
    """Raises Invalid when those are the only weights."""
    found = sorted(folder.glob("*.gguf"))
    if found and not any(folder.glob("*.safetensors")):
        raise Invalid(f"{found[0].name} is GGUF, which is not served: register the safetensors that it was made from")


def _refuse_nested(folder: Path) -> None:
    kind = _ADAPTER_CONFIG if not (folder / _CONFIG).is_file() else _CONFIG
    for inner in sorted(folder.iterdir()):
        if inner.name.startswith(".") or inner.is_symlink() or not inner.is_dir():
            continue
        if not _is_checkpoint(inner, kind) or _is_trainers_own(inner, folder):
            continue
        outside = folder.parent / inner.name
        if outside.exists():
            outside = folder.parent / f"{folder.name}-{inner.name}"
        move = f"mv {shlex.quote(str(inner))} {shlex.quote(str(outside))}"
        raise Invalid(
            f"{folder.name} holds another checkpoint, {inner.name}/ (a copy onto a folder that is there already lands"
            f" inside it): move it out and register it from there ({move}), or remove it"
        )


def _is_checkpoint(folder: Path, kind: str) -> bool:
    """`kind`: the file that makes the folder around it a checkpoint. Modules of sentence-transformers are none."""
    config = json_if_any(folder / kind)
    if kind == _CONFIG and not (isinstance(config, dict) and config.get("architectures")):
        return False
    return config is not None and not any(next(folder.glob(each), None) for each in _OTHER_RUNTIMES)


def _is_trainers_own(inner: Path, folder: Path) -> bool:
    """Whether the inner folder is an earlier `checkpoint-<step>` of the run whose final model lies in the folder.

    The final model has a step that is no smaller, or was written by `Trainer.save_model`, which notes no step.
    """
    name = _OF_A_TRAINER.fullmatch(inner.name)
    if name is None:
        return False
    state = json_if_any(folder / _STATE, MOST_INDEX_BYTES)
    step = state.get("global_step") if isinstance(state, dict) else None
    if isinstance(step, int):
        return int(name[1]) <= step
    return state is None and (folder / _ARGUMENTS).is_file()


def _refuse_strangers(folder: Path) -> None:
    index = json_if_any(folder / INDEX, MOST_INDEX_BYTES)
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict):
        return  # without an index one file has to be alone, which is checked wherever weights are read
    shards = {str(name) for name in named.values()}
    strangers = sorted(file.name for file in folder.glob("*.safetensors") if file.name not in shards)
    if strangers:
        more = f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else ""
        raise Invalid(
            f"{strangers[0]}{more} lies beside {min(shards, default=INDEX)}, and {INDEX} does not name it: two sets of"
            " weights; remove the one that is not meant"
        )
