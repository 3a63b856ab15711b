"""Whether a checkpoint's tensors are all there, as far as their names and shapes say: pure, and of no architecture.

vLLM counts a fused matrix as loaded when any part of it was, and answers nonsense with the rest. What is looked at:
that no layer is missing, that a layer has what layers of its kind have, that a projection has its siblings, and that
there is a head where it is not tied to the embedding. What only the architecture knows is found when the checkpoint's
reference is computed (stepserve.reference_program).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from control.checkpoints.architecture import GENERATES
from control.checkpoints.shard import Tensor

_LAYER = re.compile(r"(?P<stack>(?:.+\.)?(?:layers|layer|h|blocks|block))\.(?P<number>\d+)\.(?P<rest>.+)")
# Parts that vLLM puts together into one matrix: where one is, the others must be.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("query", "key", "value"), ("w1", "w3"))
_OTHER_STACKS = ("vision", "visual", "audio", "encoder", "mtp", "experts")
_MOST_NAMED = 3
_MOST_LAYERS = 4096
_NUMBERS = re.compile(r"(?<=\.)\d+(?=\.)")
# What a layer has beside its weights where they are quantised, and what the first layer alone lacks (ModernBERT).
_OF_QUANTISING = re.compile(r"(?:scale|scales|zero|qzeros|g_idx|absmax|quant_|nested_)")
_NOT_IN_THE_FIRST = ("attn_norm.",)
# Fields that let some layers use the keys or values of others (Gemma 3n and 4, Hunyuan).
_SHARED_KEYS = ("num_kv_shared_layers", "attention_k_eq_v", "use_cla")

Layers = dict[int, set[str]]


def missing_parts(config: Mapping[str, Any], tensors: Sequence[Tensor], *, with_head: bool = True) -> str | None:
    """What is missing, in words; None when nothing is known to be. `with_head` false: the model makes vectors."""
    stacks: dict[str, Layers] = {}
    outside: list[Tensor] = []
    for tensor in tensors:
        if (found := _LAYER.fullmatch(tensor.name)) is None:
            outside.append(tensor)
        else:
            if len(found["number"]) > 4 or int(found["number"]) >= _MOST_LAYERS:
                return f"{tensor.name[:100]} would be of a layer beyond the first {_MOST_LAYERS}"
            if not _OF_QUANTISING.search(found["rest"].rpartition(".")[2]):
                stacks.setdefault(found["stack"], {}).setdefault(int(found["number"]), set()).add(found["rest"])
    text = config.get("text_config")
    fields = {**config, **text} if isinstance(text, dict) else config
    if any(fields.get(name) for name in _SHARED_KEYS):
        for layers in stacks.values():
            for number, names in layers.items():
                layers[number] = {name for name in names if "attn" not in name}
    for stack, layers in stacks.items():
        count = fields.get("num_hidden_layers") if _is_text(stack) else None
        if lost := _lost_layers(layers, min(count, _MOST_LAYERS) if type(count) is int else 0):
            return f"no tensors of {_named([f'{stack}.{number}' for number in lost])}"
        if lost_names := [*_lost_siblings(stack, layers), *_lost_of_kind(stack, layers)]:
            return f"no tensor {_named(sorted(set(lost_names)))}"
    if not with_head:
        return None
    return _lost_head(fields, str((config.get("architectures") or [""])[0]), outside)


def _is_text(stack: str) -> bool:
    return not any(word in stack for word in _OTHER_STACKS)


def _lost_layers(layers: Layers, count: int) -> list[int]:
    return [number for number in range(max(count, max(layers) + 1)) if number not in layers]


def _lost_siblings(stack: str, layers: Layers) -> Iterable[str]:
    """Many an MLP has no gate, and then no layer has one."""
    known = {_NUMBERS.sub("#", name) for names in layers.values() for name in names}
    for number, names in layers.items():
        for name in names:
            parts = name.split(".")
            for siblings in _SIBLINGS:
                at = next((place for place, part in enumerate(parts) if part in siblings), None)
                if at is None or parts[-1] != "weight":
                    continue
                for sibling in siblings:
                    other = ".".join([*parts[:at], sibling, *parts[at + 1 :]])
                    if other in names or _is_fused(names, parts[:at]):
                        continue
                    down = ".".join([*parts[:at], "down_proj", "weight"])
                    always = sibling in _SIBLINGS[0] or (sibling == "up_proj" and down in names)
                    if always or _NUMBERS.sub("#", other) in known:
                        yield f"{stack}.{number}.{other}"


def _is_fused(names: set[str], place: Sequence[str]) -> bool:
    """Whether parts of the matrix are there under one name, so that not each has its own."""
    prefix = ".".join(place)
    return any(name.startswith(prefix) and ("qkv" in name or "gate_up" in name or "kv_" in name) for name in names)


def _lost_of_kind(stack: str, layers: Layers) -> Iterable[str]:
    """A layer that lacks what every other one with the same blocks has."""
    blocks = {number: _blocks(names) for number, names in layers.items()}
    for number, names in layers.items():
        kin = [other for n, other in layers.items() if n != number and blocks[n] == blocks[number]]
        if kin and all(names < other for other in kin):
            lost = set.intersection(*kin) - names
            yield from (f"{stack}.{number}.{name}" for name in lost if number or not name.startswith(_NOT_IN_THE_FIRST))


def _blocks(names: Iterable[str]) -> frozenset[str]:
    """Its norms are not among them: a layer that lacks one is no layer of another kind."""
    return frozenset(name.split(".", 1)[0] for name in names if "norm" not in name and not name.startswith("ln"))


def _lost_head(fields: Mapping[str, Any], architecture: str, outside: Sequence[Tensor]) -> str | None:
    size = fields.get("vocab_size")
    if fields.get("tie_word_embeddings") is not False or type(size) is not int or not architecture.endswith(GENERATES):
        return None
    tables = [tensor for tensor in outside if len(tensor.shape) == 2 and max(tensor.shape) >= size]
    if len(tables) >= 2:
        return None
    found = f"only {tables[0].name}" if tables else "none"
    return (
        "no head: config.json says tie_word_embeddings: false, so an embedding and a head of "
        f"{size} tokens must be there (lm_head.weight, say), and {found} is"
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
