"""Which adapters vLLM can serve, plain LoRA on a base as it is, and why it cannot serve the others PEFT writes."""

import re
from collections.abc import Mapping
from typing import Any, Final

from control.errors import Invalid

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"

_MERGE: Final = "merge it into its base (PEFT's merge_and_unload) and register the whole checkpoint"
_CONVERT: Final = f"save it with PEFT's path_initial_model_for_weight_conversion, or {_MERGE}"
_RETRAIN: Final = "train a plain LoRA adapter"

# PEFT's prompt methods add virtual tokens and have no weights that could be merged.
_PROMPTS: Final = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT"}
)
# Fields of PEFT's LoraConfig, each with the values that stand for its absence, what it makes, and what to do.
_FIELDS: Final[Mapping[str, tuple[tuple[Any, ...], str, str]]] = {
    "use_dora": ((None, False), "a DoRA adapter", _MERGE),
    "alora_invocation_tokens": ((None, []), "an activated LoRA (aLoRA), which starts at those tokens alone", _RETRAIN),
    "bias": ((None, "none"), "an adapter that changes biases", _MERGE),
    "lora_bias": ((None, False), "an adapter with biases of its own", _MERGE),
    "modules_to_save": ((None, []), "an adapter that carries whole layers", _MERGE),
    "trainable_token_indices": ((None, [], {}), "an adapter that changes rows of the embedding", _MERGE),
    "layer_replication": ((None, []), "an adapter that repeats layers of its base", _MERGE),
    "target_parameters": ((None, []), "an adapter on bare parameters, such as fused experts", _MERGE),
    "use_qalora": ((None, False), "a QALoRA adapter", _MERGE),
}
# Ways to begin that change the base's own weights: the adapter is for a base that nobody has under this name.
_CHANGED_BASE: Final = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "loftq": "LoftQ", "lora_ga": "LoRA-GA"}

_TABLE: Final = re.compile(r"(?:^|\.)(?P<layer>embed_tokens|lm_head|wte|word_embeddings|embed_in|embed_out)(?:\.|$)")


def check_kind(config: Mapping[str, Any]) -> None:
    """`config` is that of adapter_config.json. Raises Invalid saying which kind it is and what to do instead."""
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind in _PROMPTS:
        raise Invalid(f"{ADAPTER_CONFIG}: peft_type {kind} adds virtual tokens, which vLLM cannot serve: {_RETRAIN}")
    if kind != "LORA":
        raise Invalid(f"{ADAPTER_CONFIG}: peft_type {kind} is not LORA, all that vLLM can serve: {_MERGE}")
    for name, (absent, what, instead) in _FIELDS.items():
        if config.get(name) not in absent:
            raise Invalid(
                f"{ADAPTER_CONFIG}: {name} is {repr(config[name])[:100]}: {what}, which vLLM cannot serve: {instead}"
            )
    start = str(config.get("init_lora_weights")).lower()
    for prefix, named in _CHANGED_BASE.items():
        if start.startswith(prefix):
            raise Invalid(
                f"{ADAPTER_CONFIG}: init_lora_weights is {start[:100]!r}: {named} changes the base's weights when the"
                f" training begins, so on the base as it is the adapter would answer wrongly: {_CONVERT}"
            )


def check_place(tensor: str) -> None:
    """`tensor` is a matrix of LoRA by its name. Raises Invalid where it adapts the embedding or the head."""
    if (found := _TABLE.search(tensor)) is not None:
        raise Invalid(
            f"{ADAPTER_WEIGHTS}: {tensor} adapts {found['layer']}; the embedding and the head are served as the base"
            f" has them: {_MERGE}"
        )


def misfit(tensor: str) -> Invalid:
    """What a tensor is that is no matrix of LoRA."""
    table = _TABLE.search(tensor)
    if "lora_embedding_" in tensor:
        check_place(tensor if table is not None else f"embed_tokens.{tensor}")
    if "lora_magnitude_vector" in tensor:
        what = "is a DoRA adapter's, which vLLM cannot serve"
    elif tensor.endswith(".bias"):
        what = "is a bias, which vLLM cannot serve with an adapter"
    elif table is not None:
        what = (
            f"is the whole {table['layer']} (PEFT saves it when the vocabulary was resized, or the layer was trained);"
            " the embedding and the head are served as the base has them"
        )
    else:
        return Invalid(f"{ADAPTER_WEIGHTS}: {tensor} is not a matrix of a LoRA adapter")
    return Invalid(f"{ADAPTER_WEIGHTS}: {tensor} {what}: {_MERGE}")
