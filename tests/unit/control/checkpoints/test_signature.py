"""The signature: equal for two checkpoints of one run, and each kind of change shows in its own field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.checkpoints.checkpoint import inspect
from control.checkpoints.digest_cache import DigestCache
from control.checkpoints.signature import signature
from stepserve.contract import Signature
from tests.unit.control.checkpoint_files import CONFIG, weights, write_checkpoint, write_shard

DEMO = Path(__file__).parents[4] / "demo" / "checkpoints"


def signature_of(folder: Path) -> Signature:
    return inspect(folder, DigestCache()).signature


def changed(one: Signature, other: Signature) -> set[str]:
    return {name for name in Signature.model_fields if getattr(one, name) != getattr(other, name)}


def write_json(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content))


def test_checkpoints_of_one_run_differ_in_their_weights_alone() -> None:
    early, late = (inspect(DEMO / name, DigestCache()) for name in ("step-0300", "step-1500"))
    assert early.signature == late.signature
    assert early.digest != late.digest
    assert late.signature.architecture == "Qwen3ForCausalLM"
    assert late.signature.weights_bytes == (DEMO / "step-1500" / "model.safetensors").stat().st_size
    assert late.vocab_size == 259


def rewrite_a_shape(folder: Path) -> None:
    tensors = weights(0)
    tensors["layer.0"] = tensors["layer.0"][:-8]
    write_shard(folder / "model.safetensors", tensors)


def rename_a_tensor(folder: Path) -> None:
    write_shard(folder / "model.safetensors", {name.replace("0", "9"): data for name, data in weights(0).items()})


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (lambda folder: write_json(folder, "config.json", CONFIG | {"rope_theta": 1.0}), {"config_sha"}),
        (lambda folder: write_json(folder, "generation_config.json", {"temperature": 0.6}), {"config_sha"}),
        (
            lambda folder: write_json(folder, "config.json", CONFIG | {"quantization_config": {"quant_method": "fp8"}}),
            {"config_sha", "quantization"},
        ),
        (lambda folder: write_json(folder, "hf_quant_config.json", {"a": 1}), {"config_sha"}),
        (
            lambda folder: write_json(folder, "config.json", CONFIG | {"architectures": ["Other"]}),
            {"config_sha", "architecture"},
        ),
        (lambda folder: write_json(folder, "tokenizer.json", {"a": 1}), {"tokenizer_sha"}),
        (lambda folder: write_json(folder, "tokenizer_config.json", {"add_bos_token": True}), {"tokenizer_sha"}),
        (lambda folder: write_json(folder, "special_tokens_map.json", {"eos_token": "x"}), {"tokenizer_sha"}),
        (lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"), {"tokenizer_sha"}),
        (rewrite_a_shape, {"tensors_sha", "weights_bytes"}),
        (rename_a_tensor, {"tensors_sha"}),
        (lambda folder: write_shard(folder / "model.safetensors", weights(1)), set()),
        (lambda folder: write_json(folder, "config.json", CONFIG | {"use_cache": False}), set()),
        (lambda folder: write_json(folder, "config.json", CONFIG | {"transformers_version": "4"}), set()),
        (lambda folder: write_json(folder, "config.json", CONFIG | {"_name_or_path": "/x"}), set()),
        (lambda folder: write_json(folder, "trainer_state.json", {"global_step": 7}), set()),
    ],
)
def test_each_change_shows_in_its_own_field(tmp_path: Path, change: Callable[[Path], object], fields: set[str]) -> None:
    folder = write_checkpoint(tmp_path / "m")
    before = signature_of(folder)
    change(folder)
    assert changed(before, signature_of(folder)) == fields


def of_config(config: dict[str, Any]) -> str:
    return signature(
        architecture="A",
        quantization=None,
        weights_bytes=1,
        tensors=[],
        objects={"config.json": config},
        file_shas={"config.json": "whatever its bytes are"},
    ).config_sha


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}),
        ({"dtype": "bfloat16"}, {"torch_dtype": "torch.bfloat16"}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"text_config": {"torch_dtype": "float16"}}, {"text_config": {"dtype": "float16", "use_cache": True}}),
    ],
)
def test_two_ways_to_write_the_same_config(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert of_config(one) == of_config(other)


def test_a_config_inside_the_config_counts() -> None:
    assert of_config({"text_config": {"layers": 1}}) != of_config({"text_config": {"layers": 2}})
    assert of_config({"dtype": "float16"}) != of_config({"dtype": "bfloat16"})


def test_the_path_in_a_tokenizers_config_does_not_count(tmp_path: Path) -> None:
    a, b = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b")
    write_json(a, "tokenizer_config.json", {"tokenizer_class": "T", "name_or_path": "/one"})
    write_json(b, "tokenizer_config.json", {"tokenizer_class": "T", "name_or_path": "/two"})
    assert signature_of(a) == signature_of(b)


def test_sharding_changes_the_size_alone(tmp_path: Path) -> None:
    one, three = (signature_of(write_checkpoint(tmp_path / str(n), shards=n)) for n in (1, 3))
    assert changed(one, three) == {"weights_bytes"}
