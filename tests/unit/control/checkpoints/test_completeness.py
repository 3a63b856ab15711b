"""Which checkpoints lack a part of their weights, by names and shapes alone."""

from typing import Any

import pytest

from control.checkpoints.completeness import missing_parts
from control.checkpoints.shard import Tensor, read_tensors
from tests.e2e.server import EARLY

PARTS = [
    "input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
    "self_attn.o_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight",
]  # fmt: skip
OUTSIDE = {"model.embed_tokens.weight": (300, 8), "model.norm.weight": (8,), "lm_head.weight": (300, 8)}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 3, "vocab_size": 300, "tie_word_embeddings": False,
}  # fmt: skip


def tensors(*without: str, parts: list[str] = PARTS, stack: str = "model.layers", layers: int = 3) -> list[Tensor]:
    shapes = {f"{stack}.{number}.{part}": (8, 8) for number in range(layers) for part in parts} | OUTSIDE
    return [Tensor(name, "BF16", shape, 0, 0) for name, shape in shapes.items() if name not in without]


def test_a_whole_one() -> None:
    assert missing_parts(CONFIG, tensors()) is None


def test_the_demo_model() -> None:
    config = {"architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 3, "vocab_size": 259}
    whole = read_tensors(EARLY / "model.safetensors")
    assert missing_parts(config | {"tie_word_embeddings": True}, whole) is None
    assert "no head" in str(missing_parts(config | {"tie_word_embeddings": False}, whole))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_one_layer(part: str) -> None:
    name = f"model.layers.1.{part}"
    assert missing_parts(CONFIG, tensors(name)) == f"no tensor {name}"


@pytest.mark.parametrize("part", ["self_attn.k_proj.weight", "mlp.up_proj.weight"])
def test_a_part_of_all_layers(part: str) -> None:
    lost = missing_parts(CONFIG, tensors(parts=[each for each in PARTS if each != part]))
    assert lost == "no tensor " + ", ".join(f"model.layers.{number}.{part}" for number in range(3))


def test_a_layer() -> None:
    middle = [f"model.layers.1.{part}" for part in PARTS]
    assert missing_parts(CONFIG, tensors(*middle)) == "no tensors of model.layers.1"
    assert missing_parts(CONFIG, tensors(layers=2)) == "no tensors of model.layers.2"
    assert missing_parts(CONFIG | {"num_hidden_layers": 8}, tensors()) == (
        "no tensors of model.layers.3, model.layers.4, model.layers.5 and 2 more"
    )


def test_an_expert_of_one_layer() -> None:
    parts = [f"mlp.experts.{n}.{name}.weight" for n in range(4) for name in ("gate_proj", "up_proj", "down_proj")]
    name = "model.layers.2.mlp.experts.3.down_proj.weight"
    assert missing_parts(CONFIG, tensors(name, parts=[*parts, "mlp.gate.weight"])) == f"no tensor {name}"


def test_the_head() -> None:
    lost = missing_parts(CONFIG, tensors("lm_head.weight"))
    assert lost is not None
    assert "tie_word_embeddings: false" in lost
    assert "only model.embed_tokens.weight is" in lost
    assert missing_parts(CONFIG | {"tie_word_embeddings": True}, tensors("lm_head.weight")) is None
    assert missing_parts({**CONFIG, "architectures": ["LlamaModel"]}, tensors("lm_head.weight")) is None


@pytest.mark.parametrize(
    "parts",
    [
        ["ln_1.weight", "attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"],
        ["attention.query_key_value.weight", "attention.dense.weight", "mlp.dense_h_to_4h.weight"],
        ["self_attn.qkv_proj.weight", "self_attn.o_proj.weight", "mlp.gate_up_proj.weight", "mlp.down_proj.weight"],
        ["self_attn.q_a_proj.weight", "self_attn.q_b_proj.weight", "self_attn.kv_a_proj_with_mqa.weight",
         "self_attn.kv_b_proj.weight", "self_attn.o_proj.weight"],
        ["self_attn.q_proj.weight", "self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_b_proj.weight"],
        ["self_attn.q_proj.qweight", "self_attn.k_proj.qweight", "self_attn.v_proj.qweight"],
        ["mixer.A_log", "mixer.D", "mixer.conv1d.weight", "mixer.in_proj.weight", "norm.weight"],
        ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.router.weight"],
    ],
    ids=["gpt2", "neox", "phi3", "deepseek", "deepseek lite", "gptq", "mamba2", "gpt-oss"],
)  # fmt: skip
def test_architectures_that_name_their_parts_otherwise(parts: list[str]) -> None:
    assert missing_parts(CONFIG, tensors(parts=parts)) is None


def test_layers_of_two_kinds() -> None:
    """A hybrid's, a first dense layer before experts, and a vision tower with other layers than the text."""
    mixed = tensors() + [
        Tensor(f"model.layers.3.{part}", "BF16", (8, 8), 0, 0) for part in ("mamba.A", "mlp.up.weight")
    ]
    tower = [Tensor(f"vision_tower.layers.{n}.attn.qkv.weight", "BF16", (8, 8), 0, 0) for n in range(2)]
    assert missing_parts(CONFIG | {"num_hidden_layers": 4}, mixed + tower) is None
    assert missing_parts({"text_config": CONFIG, "architectures": ["LlamaForCausalLM"]}, tensors(layers=2)) == (
        "no tensors of model.layers.2"
    )
