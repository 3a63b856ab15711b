"""Checkpoint inspection: what is whole passes, what is torn is named."""

import json
import shutil
import struct
from pathlib import Path

import pytest

from control.checkpoints.checkpoint import inspect
from control.checkpoints.digest_cache import DigestCache
from control.errors import Invalid
from tests.unit.control.checkpoint_files import CONFIG, weights, write_checkpoint, write_index, write_shard

DEMO = Path(__file__).parents[4] / "demo" / "checkpoints"


def refusal(folder: Path) -> str:
    with pytest.raises(Invalid) as caught:
        inspect(folder, DigestCache())
    return str(caught.value)


def test_the_demo_checkpoint_is_whole() -> None:
    checkpoint = inspect(DEMO / "step-1500", DigestCache())
    assert checkpoint.architecture == "Qwen3ForCausalLM"
    assert checkpoint.dtype == "bfloat16"
    assert checkpoint.quantization is None
    assert checkpoint.context_length_tokens == 512
    assert checkpoint.step == 1500
    assert checkpoint.size_bytes == (DEMO / "step-1500" / "model.safetensors").stat().st_size
    assert checkpoint.digest.startswith("sha256:")


def test_sharded_weights_are_whole(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", shards=2)
    assert inspect(folder, DigestCache()).size_bytes == sum(f.stat().st_size for f in folder.glob("*.safetensors"))


def test_missing_folder(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / name).unlink()
    assert name in refusal(folder)


@pytest.mark.parametrize(
    ("architecture", "what"),
    [
        ("BertForSequenceClassification", "a classifier or a reward model"),
        ("Qwen2ForRewardModel", "a reward model, whose answers are scores"),
        ("Qwen2ForProcessRewardModel", "a reward model"),
        ("BertForTokenClassification", "a classifier of tokens"),
    ],
)
def test_a_model_that_no_route_can_ask_is_refused_by_what_it_is(tmp_path: Path, architecture: str, what: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"architectures": [architecture]}))
    refused = refusal(folder)
    assert f"config.json: {architecture} is {what}" in refused
    assert "cannot be served here" in refused


@pytest.mark.parametrize(
    ("name", "content", "has"),
    [
        ("chat_template.jinja", "{{ messages }}", True),
        ("chat_template.jinja", "", False),
        ("tokenizer_config.json", '{"chat_template": "{{ messages }}"}', True),
        ("tokenizer_config.json", '{"chat_template": null}', False),
        ("tekken.json", "{}", True),
        ("modules.json", "[]", None),
    ],
)
def test_whether_it_brings_a_chat_template(tmp_path: Path, name: str, content: str, has: bool | None) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / name).write_text(content)
    assert inspect(folder, DigestCache()).has_template is has


def test_gguf_is_called_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "tiny-q4.gguf").write_bytes(b"GGUF")
    assert "tiny-q4.gguf is GGUF" in refusal(tmp_path)


def test_config_that_is_no_json(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "config.json").write_text("{")
    assert "config.json is not valid JSON" in refusal(folder)


def test_config_without_architectures(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "config.json").write_text("{}")
    assert "architectures" in refusal(folder)


def test_quantization_is_reported(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": {"quant_method": "awq"}}))
    assert inspect(folder, DigestCache()).quantization == "awq"


@pytest.mark.parametrize("lost_bytes", [1, 60, -1])
def test_a_shard_of_the_wrong_length(tmp_path: Path, lost_bytes: int) -> None:
    folder = write_checkpoint(tmp_path / "m")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-lost_bytes] if lost_bytes > 0 else whole + b"x")
    text = refusal(folder)
    assert "model.safetensors" in text
    assert f"expected {len(whole)} bytes, has {len(whole) - lost_bytes}" in text


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("<Q", 500) + b"{}"])
def test_a_shard_torn_in_its_header(tmp_path: Path, content: bytes) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(content)
    assert "model.safetensors is torn" in refusal(folder)


def test_a_header_that_is_no_json(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"oops")
    assert "not a safetensors file" in refusal(folder)


@pytest.mark.parametrize("offsets", [[4, 8], [0, 7], [8, 0], [0, "8"]])
def test_offsets_that_make_no_sense(tmp_path: Path, offsets: list[object]) -> None:
    folder = write_checkpoint(tmp_path / "m")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": offsets}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert "model.safetensors" in refusal(folder)


def test_index_names_a_missing_shard(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors is missing" in refusal(folder)


def test_index_places_a_tensor_where_it_is_not(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", shards=2)
    write_index(folder, {"model-00001-of-00002.safetensors": {"ghost": b""}})
    assert "lacks the tensor ghost" in refusal(folder)


def test_index_cannot_reach_out_of_the_folder(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    write_shard(tmp_path / "else.safetensors", weights(1))
    write_index(folder, {"../else.safetensors": weights(1)})
    assert "not a file of this folder" in refusal(folder)


def test_a_stray_shard_without_an_index(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    write_shard(folder / "old.safetensors", weights(1))
    assert "old.safetensors lies beside" in refusal(folder)


def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "safetensors are required" in refusal(folder)


def test_a_broken_trainer_state_does_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(DEMO / "step-0300", folder)
    (folder / "trainer_state.json").write_text("{")
    assert inspect(folder, DigestCache()).step is None
