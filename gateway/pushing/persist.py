"""Pushed weights as a registered checkpoint on disk, written beside what serves."""

import asyncio
import json
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.errors import ControlDown
from gateway.pushing.pusher import Outcome
from gateway.serving.weights.check import Checked
from gateway.serving.weights.staged import StagedWeights
from gateway.sidecar.control_link import ControlProxy
from stepserve.durable import put_in_place, sync_tree
from stepserve.fleet import WEIGHTS_FILE
from stepserve.probe import METADATA_KEY
from stepserve.shard import header_of

log = logging.getLogger(__name__)

_COPIED_BYTES = 64 * 1024 * 1024
_PART = ".pushed"


@dataclass(slots=True)
class Persisting:
    """`folder`: where a model's folder is put, under its id."""

    control: ControlProxy
    folder: Path
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _leftovers: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        self._leftovers = parts_in(self.folder)  # of a process that was killed while it wrote

    def begin(self, outcome: Outcome) -> str:
        """Returns the id that the weights of `outcome` will be registered under. What goes wrong later is logged."""
        request, weights = outcome.request, outcome.weights
        assert weights is not None, "asked for"
        name = f"{request.model.id}-v{request.version.number}"
        task = asyncio.create_task(self._persist(name, Path(request.model.path), weights, request.version.label))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return name

    async def _persist(self, name: str, source: Path, weights: StagedWeights, label: str | None) -> None:
        folder = self.folder / name
        leftovers, self._leftovers = self._leftovers, []
        try:
            for part in leftovers:
                await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
            await asyncio.to_thread(write_checkpoint, folder, source, weights)
            body: dict[str, Any] = {"id": name, "source": "push", "path": str(folder), "tags": ["pushed"]}
            if label is not None:
                body["tags"].append(label)
            probe = weights.checked.metadata.get(METADATA_KEY) if weights.checked is not None else None
            if probe is not None:
                body["probe"] = json.loads(probe)
            answer = await self.control.request("POST", "/models/register", body)
            if answer.status_code >= 300:
                log.error("%s holds pushed weights and is not registered: %s", folder, answer.text[:500])
            else:
                log.info("pushed weights are registered as %s", name)
        except (OSError, ControlDown) as error:
            log.error("pushed weights are not on disk as %s: %s", name, error)
        finally:
            weights.close()


def parts_in(folder: Path) -> list[Path]:
    """Checkpoints that were not written to their end."""
    return list(folder.glob(f".*{_PART}"))


def write_checkpoint(folder: Path, source: Path, weights: StagedWeights) -> None:
    """The checkpoint in `source` with other weights, whole or not at all. Blocks. Raises OSError."""
    assert weights.checked is not None, "only what was checked is kept"
    part = folder.with_name(f".{folder.name}{_PART}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        for file in source.iterdir():
            if file.is_dir():
                shutil.copytree(file, part / file.name)
            elif not file.name.startswith(".") and ".safetensors" not in file.suffixes and _is_kept(file):
                shutil.copy2(file, part / file.name)
        _write_weights(part / WEIGHTS_FILE, weights.descriptor, weights.checked)
        sync_tree(part)
        put_in_place(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _is_kept(file: Path) -> bool:
    """Neither an index of shards nor what a trainer keeps for itself."""
    return file.name != "model.safetensors.index.json" and file.suffix not in {".bin", ".pt", ".pth", ".pkl"}


def _write_weights(file: Path, descriptor: int, checked: Checked) -> None:
    header, data_bytes = header_of(checked.tensors)
    with file.open("wb", buffering=0) as out:
        out.write(header)
        for tensor in checked.tensors:
            position = tensor.begin
            while position < tensor.end:
                count = min(tensor.end - position, _COPIED_BYTES)
                position += os.sendfile(out.fileno(), descriptor, position, count)
    assert file.stat().st_size == len(header) + data_bytes, "as the header says"
