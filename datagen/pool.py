"""What was asked before: in this job, and in the shards of earlier ones."""

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from datagen.records import draft_question, subject
from datagen.similarity import Fingerprint, Nearest, SimilarityIndex

JOB_INDEX = ".questions.sqlite"
EARLIER_INDEX = ".earlier_questions.sqlite"
_AT_ONCE = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Familiar:
    """The nearest question known, and where it is known from."""

    nearest: Nearest
    place: Literal["job", "earlier_shard"]


class Pool:
    """A run's own index is made anew at its start, from what its log says; that of earlier shards is shared by all runs
    and grows. Every method blocks; a method is called by one thread at a time."""

    def __init__(self, run_dir: Path, *, earlier: bool, same_numbers: bool) -> None:
        self._run_dir = run_dir
        self._same_numbers = same_numbers
        self._stack = ExitStack()
        _remove(run_dir / JOB_INDEX)
        self._job = self._stack.enter_context(SimilarityIndex(run_dir / JOB_INDEX))
        self._earlier = self._stack.enter_context(_opened(run_dir.parent / EARLIER_INDEX)) if earlier else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        _remove(self._run_dir / JOB_INDEX)

    def catch_up(self, folders: Iterable[Path]) -> None:
        """Takes in every shard in these folders, and every one that another run keeps, that was not taken in yet."""
        if self._earlier is None:
            return
        kept = (path for path in self._run_dir.parent.glob("*/shard_*.jsonl") if path.parent != self._run_dir)
        own = {_key(path) for path in self._run_dir.glob("shard_*.jsonl")}
        for path in [*kept, *(path for folder in folders for path in sorted(folder.rglob("*.jsonl")))]:
            try:
                key = _key(path)
            except OSError:  # taken away meanwhile
                continue
            if key not in own and not self._earlier.knows(key):
                for batch in _batches(_questions(path)):
                    self._earlier.add([(id_, Fingerprint(question)) for id_, question in batch])
                self._earlier.done_with(key)

    def nearest(self, question: Fingerprint) -> Familiar:
        mine = Familiar(self._job.nearest(question, same_numbers=self._same_numbers), "job")
        if self._earlier is None:
            return mine
        theirs = Familiar(self._earlier.nearest(question, same_numbers=self._same_numbers), "earlier_shard")
        return theirs if theirs.nearest.similarity > mine.nearest.similarity else mine

    def add(self, records: Iterable[tuple[str, Fingerprint]]) -> None:
        self._job.add(list(records))

    def at_once(self) -> AbstractContextManager[None]:
        """What is added within is written together, which is quicker."""
        return self._job.at_once()


def _questions(path: Path) -> Iterator[tuple[str, str]]:
    """(id, question) of each row that has them; a line that is none is passed over."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file):
                try:
                    row: Any = json.loads(raw)
                except ValueError:
                    continue
                question = draft_question(row) if isinstance(row, dict) else ""
                if question:
                    metadata = row.get("metadata")
                    strategy = str(metadata.get("strategy")) if isinstance(metadata, dict) else ""
                    yield str(row.get("id") or f"{path.name}:{number}"), subject(question, strategy)
    except OSError as error:
        _log.warning("%s cannot be read, so nothing is compared with it: %s", path, error)


def _batches(rows: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    while batch := list(islice(rows, _AT_ONCE)):
        yield batch


def _key(path: Path) -> str:
    """A file by what it is, not by its name: a shard and the copy that its run keeps are one."""
    facts = path.stat()
    return f"{facts.st_dev}:{facts.st_ino}:{facts.st_size}:{facts.st_mtime_ns}"


def _opened(path: Path) -> SimilarityIndex:
    """The file, or an empty one in place of a broken one: it is made of the shards."""
    try:
        index = SimilarityIndex(path)
        len(index)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        _log.warning("%s is broken and is made again: %s", path, error)
        _remove(path)
        index = SimilarityIndex(path)
    return index


def _remove(path: Path) -> None:
    for name in (path.name, f"{path.name}-journal"):
        path.with_name(name).unlink(missing_ok=True)
