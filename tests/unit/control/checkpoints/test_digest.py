"""The digest is of the content: not of how it is cut into files, and of nothing that does not matter."""

import json
import os
from pathlib import Path

import pytest

from control.checkpoints.checkpoint import inspect
from control.checkpoints.digest_cache import DigestCache
from tests.unit.control.checkpoint_files import weights, write_checkpoint, write_shard


def digest_of(folder: Path, cache: DigestCache | None = None) -> str:
    return inspect(folder, cache or DigestCache()).digest


def test_sharding_does_not_change_it(tmp_path: Path) -> None:
    digests = {digest_of(write_checkpoint(tmp_path / str(n), shards=n)) for n in (1, 2, 3)}
    assert len(digests) == 1


def test_weights_change_it(tmp_path: Path) -> None:
    assert digest_of(write_checkpoint(tmp_path / "a", seed=0)) != digest_of(write_checkpoint(tmp_path / "b", seed=1))


def test_a_tensors_name_changes_it(tmp_path: Path) -> None:
    a, b = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b")
    renamed = {name.replace("layer", "block"): data for name, data in weights(0).items()}
    write_shard(b / "model.safetensors", renamed)
    assert digest_of(a) != digest_of(b)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"])
def test_what_changes_answers_changes_it(tmp_path: Path, name: str) -> None:
    a, b = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b")
    (b / name).write_text(json.dumps({"architectures": ["Other"]}))
    assert digest_of(a) != digest_of(b)


@pytest.mark.parametrize("name", ["trainer_state.json", "optimizer.pt", "README.md"])
def test_what_does_not_change_answers_leaves_it(tmp_path: Path, name: str) -> None:
    a, b = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b")
    (b / name).write_text("{}")
    assert digest_of(a) == digest_of(b)


def test_a_changed_file_is_read_again_although_size_and_time_are_the_same(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", seed=0)
    cache = DigestCache()
    before = digest_of(folder, cache)
    file = folder / "model.safetensors"
    status = file.stat()
    write_shard(file, weights(1))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    assert digest_of(folder, cache) != before


def test_hashes_outlive_the_process(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    file = tmp_path / "digests.json"
    first = digest_of(folder, DigestCache(file))
    remembered = json.loads(file.read_text())
    remembered[str(folder / "config.json")][1][""] = "0" * 64
    file.write_text(json.dumps(remembered))
    assert digest_of(folder, DigestCache(file)) != first, "the second cache did not come from the file"


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": [[1], {}]}'])
def test_a_broken_cache_file_is_an_empty_cache(tmp_path: Path, content: str) -> None:
    file = tmp_path / "digests.json"
    file.write_text(content)
    folder = write_checkpoint(tmp_path / "m")
    assert digest_of(folder, DigestCache(file)) == digest_of(folder)
