"""Checkpoints in the form of sentence-transformers."""

import json
from pathlib import Path
from typing import Any

import pytest

from control.checkpoints.checkpoint import inspect
from control.checkpoints.digest_cache import DigestCache
from control.errors import Invalid
from stepserve.client.checkpoint import look
from tests.unit.control.checkpoint_files import write_checkpoint

POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
MODULES = [{"type": "sentence_transformers.models.Transformer", "path": ""}, POOLING]


def write_modules(folder: Path, modules: Any, pooling: str = '{"pooling_mode_mean_tokens": true}') -> Path:
    write_checkpoint(folder)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(pooling)
    return folder


def test_how_vectors_are_pooled_belongs_to_the_content(tmp_path: Path) -> None:
    mean = inspect(write_modules(tmp_path / "mean", MODULES), DigestCache())
    last = inspect(
        write_modules(tmp_path / "last", MODULES, '{"pooling_mode_lasttoken": true}'), DigestCache()
    )  # fmt: skip
    plain = inspect(write_checkpoint(tmp_path / "plain"), DigestCache())
    assert len({mean.digest, last.digest, plain.digest}) == 3
    assert mean.signature.tokenizer_sha != last.signature.tokenizer_sha  # so it is no switch in place


def test_a_client_that_pushes_it_counts_the_same_files(tmp_path: Path) -> None:
    folder = write_modules(tmp_path / "m", MODULES)
    assert {"modules.json", "1_Pooling/config.json"} <= {file.name for file in look(folder)}


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({}, "modules.json holds no list"),
        ([*MODULES, {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}], "names the module Dense"),
        ([POOLING | {"path": "3_Pooling"}], "3_Pooling/config.json is missing, modules.json names it"),
        ([POOLING | {"path": "../other"}], "names the folder '../other'"),
        ([{}], "names the module ?"),
    ],
)
def test_what_vllm_would_leave_out_is_refused(tmp_path: Path, modules: Any, message: str) -> None:
    with pytest.raises(Invalid, match=r"modules\.json") as caught:
        inspect(write_modules(tmp_path / "m", modules), DigestCache())
    assert message in str(caught.value)
