"""Files of a checkpoint that are read whole: whatever lies there, control reads no more of it than a bound."""

import json
import os
from pathlib import Path

import pytest

from control.checkpoints.adapter import inspect_adapter
from control.checkpoints.checkpoint import inspect
from control.checkpoints.digest_cache import DigestCache
from control.checkpoints.json_file import MOST_INDEX_BYTES, json_if_any, read_json
from control.errors import Invalid
from tests.unit.control.checkpoint_files import write_checkpoint

ENDLESS_BYTES = 1 << 40  # sparse: it takes no room on the disk, and a terabyte in memory


def lengthen(file: Path) -> None:
    file.touch()
    os.truncate(file, ENDLESS_BYTES)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
    ],
)
def test_a_file_without_end_is_named(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    lengthen(folder / name)
    with pytest.raises(Invalid, match=rf"^{name} is longer than \d+ bytes"):
        inspect(folder, DigestCache())


def test_an_adapters_configuration_without_end(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").touch()
    lengthen(tmp_path / "adapter_config.json")
    with pytest.raises(Invalid, match=r"^adapter_config\.json is longer than \d+ bytes"):
        inspect_adapter(tmp_path, DigestCache())


def test_a_trainers_state_without_end_is_no_matter_of_the_models(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    lengthen(folder / "trainer_state.json")
    assert inspect(folder, DigestCache()).step is None


@pytest.mark.parametrize("name", ["trainer_state.json", "config.json"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    if name == "config.json":
        with pytest.raises(Invalid, match=name):
            inspect(folder, DigestCache())
    else:
        assert inspect(folder, DigestCache()).step is None


def test_as_many_tensors_as_a_model_of_a_trillion_parameters_has(tmp_path: Path) -> None:
    file = tmp_path / "index.json"
    names = [f"model.layers.{number}.mlp.experts.gate_up_proj.weight_scale_inv" for number in range(250_000)]
    file.write_text(json.dumps({"weight_map": dict.fromkeys(names, "model-00001-of-00200.safetensors")}))
    assert len(read_json(file, MOST_INDEX_BYTES)["weight_map"]) == 250_000


def test_what_is_no_file_is_nothing(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for file in (tmp_path, tmp_path / "missing.json"):
        assert json_if_any(file) is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before
