"""What a job asks to read that other keys may have made: runs, data sets, files, shards."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from control.access.dataset_owners import DATASET_SUFFIXES, DatasetOwners
from control.access.view import View
from control.batches.files import FileStore
from control.errors import Conflict, NotFound
from control.jobs.queue import JobQueue
from control.models.eval_history import EvalHistory
from control.shards.inbox import ShardInbox
from stepserve.paths import Layout

DATASETS = frozenset({"dataset_ref", "fewshot_dataset_ref", "decontaminate_except", "known_sets"})
EVAL_RUNS = frozenset({"source_eval_run_id"})
UPLOADED_FILES = frozenset({"input_file_id"})
BASE_FILES = frozenset({"input", "seed_file", "calibration"})
"""Fields that name a file in the base directory."""


class JobReferences:
    def __init__(
        self,
        layout: Layout,
        queue: JobQueue,
        owners: DatasetOwners,
        evals: EvalHistory,
        files: FileStore,
        inbox: ShardInbox,
    ) -> None:
        self._layout = layout
        self._queue = queue
        self._owners = owners
        self._evals = evals
        self._files = files
        self._inbox = inbox

    async def check(self, view: View, asked: dict[str, Any]) -> None:
        """`asked` is the request of a job, its strategy's `config`, its judge and the columns in that included. Raises
        NotFound, which names the field."""
        if view.owner is None:
            return
        for place, fields in _objects(asked):
            for field, name in _named(fields):
                if field in DATASETS:
                    await asyncio.to_thread(self._owners.check, view, place + field, name)
                elif field in EVAL_RUNS:
                    await self._evals.done(name, place + field, view)
                elif field in UPLOADED_FILES:
                    await self.check_file(view, name)
                elif field in BASE_FILES:
                    await self._check_base_file(view, place + field, name)

    async def check_unread(self, dataset: Path) -> None:
        """Raises Conflict when a job that is not over names the data set."""
        for job_id, config in await self._queue.unfinished():
            if await asyncio.to_thread(self._names, config, dataset):
                raise Conflict(f"name: {dataset.name} is used by a job that is not over: cancel {job_id} or wait")

    def _names(self, config: dict[str, Any], dataset: Path) -> bool:
        """Whether a field, however deep inside, means that file. Blocks."""
        dataset = dataset.resolve()
        for field, name in _all_named(config):
            if field in DATASETS:
                meant = [self._layout.datasets / f"{name}{suffix}" for suffix in DATASET_SUFFIXES]
            else:
                meant = [self._layout.base / name] if field in BASE_FILES else []
            try:
                if any(path.resolve() == dataset for path in meant):
                    return True
            except (OSError, ValueError, RuntimeError):
                continue
        return False

    async def check_file(self, view: View, file_id: str) -> None:
        """Raises NotFound for a file of another key, just as for one that is not there."""
        if view.owner is None:
            return
        try:
            job_id = self._files.job_of(file_id)
            if job_id is not None:
                await self._queue.get(job_id, view=view)
            elif not view.sees(await asyncio.to_thread(self._files.owner, file_id)):
                raise NotFound("")
        except NotFound:
            raise NotFound(f"there is no file {file_id!r}") from None

    async def _check_base_file(self, view: View, field: str, name: str) -> None:
        root = self._layout.base.resolve()
        try:
            path = (root / name).resolve()
        except (OSError, ValueError, RuntimeError):
            return  # what reads it says what is wrong
        if not path.is_relative_to(root):
            return
        inside = path.relative_to(root)
        missing = NotFound(f"{field}: there is no file {name!r} in the base directory")
        if path.is_relative_to(self._layout.datasets.resolve()):
            await asyncio.to_thread(self._owners.check, view, field, str(path))
            return
        shard = await self._inbox.at(str(inside))
        job_id = shard.job_id if shard is not None else None
        if inside.parts[:1] == ("runs",):
            if len(inside.parts) <= 3:  # runs/{type}/{job}/…
                raise missing
            job_id = inside.parts[2]
        elif shard is None and path.is_relative_to(self._layout.shards.resolve()):
            raise missing
        if job_id is not None:
            try:
                await self._queue.get(job_id, view=view)
            except NotFound:
                raise missing from None


def _objects(asked: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Whose fields may name something, with the place of all but the first two."""
    yield "", asked
    config = asked.get("config")
    if not isinstance(config, dict):
        return
    yield "", config
    if isinstance(judge := config.get("judge"), dict):
        yield "config.judge.", judge
    if isinstance(quality := config.get("quality"), dict):
        yield "config.quality.", quality
    columns = config.get("columns")
    for number, column in enumerate(columns if isinstance(columns, list) else []):
        if isinstance(column, dict):
            yield f"config.columns.{number}.", column


def _all_named(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Every text in there, with the field that it is in."""
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from _all_named(inside, name)
    elif isinstance(value, list):
        for each in value:
            yield from _all_named(each, field)
    elif isinstance(value, str):
        yield field, value


def _named(fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for field, value in fields.items():
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str):
                yield field, name
