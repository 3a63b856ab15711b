"""Contamination reports for those who ask: each is made once for what the files hold, by a process of its own."""

import asyncio
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datagen.contamination import ASIDE
from evals.datasets import resolve_dataset
from evals.errors import DatasetMissing, EvalError
from stepserve.jobs.errors import Conflict, Invalid, NotFound
from stepserve.jobs.eval_ports import TrainingText
from stepserve.killable import KillableProcess

LIMIT_S = 3600.0
_PROGRAM = (sys.executable, "-m", "datagen.contamination_program")
_KEPT = 32
_AT_ONCE = 1
_MOST_WAITING = 16

_Key = tuple[str, ...]


class ContaminationReports:
    """Implements stepserve.jobs.eval_ports.ContaminationReports.

    Those that run are shared by all who ask for the same one, and go on when nobody waits any more.
    """

    def __init__(self) -> None:
        self._made: dict[_Key, dict[str, Any]] = {}
        self._running: dict[_Key, asyncio.Task[dict[str, Any]]] = {}
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def report(
        self, name: str, datasets_dir: Path, shards: Sequence[TrainingText], against: Sequence[str]
    ) -> dict[str, Any]:
        """Raises NotFound, Invalid, Conflict (it takes too long, or too many wait)."""
        root = await asyncio.to_thread(datasets_dir.resolve)
        dataset = await asyncio.to_thread(_resolved, "name", name, datasets_dir)
        others = [await asyncio.to_thread(_resolved, "against", ref, datasets_dir) for ref in against]
        if dataset in others:
            raise Invalid(f"against: {name} is the dataset itself")
        sources = [{"name": one.name, "kind": "shard", "path": str(one.path)} for one in shards]
        sources += [{"name": str(path.relative_to(root)), "kind": "dataset", "path": str(path)} for path in others]
        files = [str(dataset), *(source["path"] for source in sources)]
        key = await asyncio.to_thread(_versions, files)
        known = self._made.get(key)
        if known is None and key not in self._running:
            if len(self._running) >= _MOST_WAITING:
                raise Conflict(f"{_MOST_WAITING} other reports are being made: ask again when one of them is")
            asked = {"dataset": str(dataset), "folder": str(root), "sources": sources}
            self._running[key] = asyncio.create_task(self._make(asked))
            self._running[key].add_done_callback(lambda task: self._remember(key, task))
        report = known if known is not None else await asyncio.shield(self._running[key])
        return {"dataset": str(dataset.relative_to(root)), **report}

    async def _make(self, asked: dict[str, Any]) -> dict[str, Any]:
        async with self._free:
            await asyncio.to_thread(_remove_left, Path(asked["folder"]))
            process = await KillableProcess.start(_PROGRAM)
            try:
                answer = await process.ask(asked, LIMIT_S)
            except (TimeoutError, EOFError, ConnectionError) as error:
                raise Conflict(f"the report was not made within {LIMIT_S:g} s, or its process died: {error}") from error
            finally:
                await process.end()
        if "error" in answer:
            raise Invalid(f"name: {answer['error']}")
        report: dict[str, Any] = answer["report"]
        return report

    def _remember(self, key: _Key, task: asyncio.Task[dict[str, Any]]) -> None:
        del self._running[key]
        if task.cancelled() or task.exception() is not None:
            return
        while len(self._made) >= _KEPT:
            del self._made[next(iter(self._made))]
        self._made[key] = task.result()


def _remove_left(folder: Path) -> None:
    """By programs that were killed: no other runs now."""
    for aside in folder.glob(f"{ASIDE}*"):
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)


def _resolved(field: str, ref: str, datasets_dir: Path) -> Path:
    try:
        return resolve_dataset(ref, datasets_dir)
    except DatasetMissing as error:
        raise NotFound(f"{field}: {error}") from error
    except EvalError as error:
        raise Invalid(f"{field}: {error}") from error


def _versions(files: Sequence[str]) -> _Key:
    """Equal while the files are the same."""
    facts = []
    for file in files:
        try:
            stat = Path(file).stat()
        except OSError:
            facts.append(f"{file} -")
            continue
        facts.append(f"{file} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}")
    return tuple(facts)
