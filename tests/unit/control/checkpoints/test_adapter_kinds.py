"""Kinds of adapters: each that vLLM cannot serve is refused as what it is."""

from typing import Any

import pytest

from control.checkpoints.adapter_kinds import check_kind, check_place, misfit
from control.errors import Invalid


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "LORA"},
        {"peft_type": "lora", "use_rslora": True, "bias": "none", "modules_to_save": []},
        {"init_lora_weights": True},
        {"init_lora_weights": "gaussian", "alora_invocation_tokens": None},
        {"init_lora_weights": "eva", "target_parameters": None, "trainable_token_indices": None},
    ],
)
def test_plain_lora_is_taken(config: dict[str, Any]) -> None:
    check_kind(config)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "LOKR"}, "peft_type LOKR is not LORA"),
        ({"peft_type": "ADALORA"}, "peft_type ADALORA is not LORA"),
        ({"peft_type": "PREFIX_TUNING"}, "adds virtual tokens, which vLLM cannot serve: train a plain LoRA adapter"),
        ({"init_lora_weights": "pissa"}, "PiSSA .*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "OLoRA"}, "OLoRA changes the base's weights"),
        ({"init_lora_weights": "loftq"}, "LoftQ changes the base's weights"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "repeats layers of its base"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "bare parameters, such as fused experts"),
        ({"lora_bias": True}, "biases of its own"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is .*carries whole layers.*merge it into its base"),
    ],
)
def test_another_kind_is_called_by_its_name(config: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        check_kind(config)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "adapts embed_tokens; the embedding and the head are"),
        ("base_model.model.transformer.tok.lora_embedding_B", "adapts embed_tokens; the embedding and the head are"),
        ("base_model.model.lm_head.weight", "is the whole lm_head .*the vocabulary was resized"),
        ("base_model.model.model.embed_tokens.weight", "is the whole embed_tokens"),
        ("base_model.model.model.layers.0.o_proj.lora_magnitude_vector", "is a DoRA adapter's"),
        ("base_model.model.model.layers.0.o_proj.lora_B.bias", "is a bias"),
        ("base_model.model.model.layers.0.o_proj.hada_w1_a", "is not a matrix of a LoRA adapter"),
    ],
)
def test_a_tensor_that_is_no_matrix_of_lora_is_called_what_it_is(tensor: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        raise misfit(tensor)


def test_a_projection_is_no_embedding() -> None:
    check_place("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    with pytest.raises(Invalid, match="adapts lm_head"):
        check_place("base_model.model.lm_head.lora_A.weight")
