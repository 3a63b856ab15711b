import json
import shlex
import shutil
from pathlib import Path

import pytest

from control.checkpoints.checkpoint import inspect
from control.checkpoints.digest_cache import DigestCache
from control.checkpoints.layout import check_layout
from control.errors import Invalid
from tests.unit.control.checkpoint_files import weights, write_checkpoint, write_shard


def _refusal(folder: Path) -> str:
    with pytest.raises(Invalid) as refused:
        check_layout(folder)
    return str(refused.value)


@pytest.mark.parametrize("name", ["step-1500", "checkpoint-1500", "my model"])
def test_a_copy_that_landed_inside_is_refused_with_the_command_that_moves_it(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "current")
    inner = write_checkpoint(folder / name, seed=5)
    said = _refusal(folder)
    assert f"current holds another checkpoint, {name}/" in said
    command = shlex.split(said.split("(mv ")[1].rsplit(")", 1)[0])
    assert command == [str(inner), str(tmp_path / name)]
    shutil.move(command[0], command[1])
    check_layout(folder)
    check_layout(tmp_path / name)


def test_the_command_does_not_nest_it_again(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "current")
    write_checkpoint(folder / "step-2")
    write_checkpoint(tmp_path / "step-2")
    assert _refusal(folder).endswith(f"{tmp_path / 'current-step-2'}), or remove it")


@pytest.mark.parametrize(("outer", "inner", "fine"), [(1500, 1000, True), (1500, 1500, True), (1000, 1500, False)])
def test_a_trainers_earlier_checkpoints_may_lie_in_its_output(
    tmp_path: Path, outer: int, inner: int, fine: bool
) -> None:
    folder = write_checkpoint(tmp_path / "out")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": outer}))
    write_checkpoint(folder / f"checkpoint-{inner}")
    if fine:
        check_layout(folder)
    else:
        assert f"checkpoint-{inner}/" in _refusal(folder)


def test_what_trainer_save_model_wrote_is_the_final_one(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "out")
    for step in (500, 1000):
        write_checkpoint(folder / f"checkpoint-{step}")
    (folder / "training_args.bin").write_bytes(b"x")
    check_layout(folder)


def test_other_folders_are_no_checkpoints(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    for name, config in (("1_Pooling", {"word_embedding_dimension": 3}), ("runs", None), ("lora", None)):
        (folder / name).mkdir()
        if config is not None:
            (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "lora" / "adapter_config.json").write_text("{}")
    write_checkpoint(folder / "onnx")
    (folder / "onnx" / "model.onnx").write_bytes(b"x")
    write_checkpoint(folder / ".cache")
    (folder / "latest").symlink_to(write_checkpoint(tmp_path / "other"))
    check_layout(folder)


def test_an_adapter_in_an_adapter(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
    assert "a holds another checkpoint, b/" in _refusal(tmp_path / "a")


@pytest.mark.parametrize(
    "stranger", ["model.safetensors", "model-00001-of-00003.safetensors", "model.fp16-00001-of-00002.safetensors"]
)
def test_safetensors_that_the_index_does_not_name(tmp_path: Path, stranger: str) -> None:
    folder = write_checkpoint(tmp_path / "m", shards=2)
    check_layout(folder)
    write_shard(folder / stranger, weights(9))
    assert _refusal(folder) == (
        f"{stranger} lies beside model-00001-of-00002.safetensors, and model.safetensors.index.json does not name it:"
        " two sets of weights; remove the one that is not meant"
    )


@pytest.mark.parametrize("shards", [1, 2])
def test_what_the_engine_would_load_in_place_of_the_others(tmp_path: Path, shards: int) -> None:
    """vLLM takes consolidated*.safetensors before anything else, so the digest would be of other weights."""
    folder = write_checkpoint(tmp_path / "m", shards=shards)
    write_shard(folder / "consolidated.safetensors", weights(9))
    with pytest.raises(Invalid, match=r"consolidated\.safetensors lies beside model.*two sets of weights"):
        inspect(folder, DigestCache())
