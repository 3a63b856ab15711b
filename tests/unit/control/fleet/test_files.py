"""The files of a model, as members are told of them."""

import asyncio
import hashlib
from pathlib import Path
from typing import cast

import pytest

from control.fleet.files import ModelFiles
from control.models.repository import ModelRepository
from tests.unit.control.checkpoint_files import write_checkpoint


def test_many_members_that_ask_at_once_have_each_file_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    write_checkpoint(folder, 0)
    files = ModelFiles(cast("ModelRepository", None))
    sha256, hashed = hashlib.sha256, 0

    def counted() -> "hashlib._Hash":
        nonlocal hashed
        hashed += 1
        return sha256()

    async def run() -> None:
        monkeypatch.setattr("control.fleet.files.hashlib.sha256", counted)
        told = await asyncio.gather(*(files.manifest_at("a", "sha256:a", folder) for _ in range(8)))
        monkeypatch.undo()
        assert hashed == len(told[0].files)
        assert all(each == told[0] for each in told)

    asyncio.run(run())
