"""The tasks folder: task files that the machine's owner put there, each alone or in a folder with what it needs."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stepserve.jobs.errors import Invalid, NotFound
from stepserve.jobs.eval_ports import Harness

_HARNESS_OF: dict[str, Harness] = {".yaml": "lm_eval", ".py": "inspect"}
_BY_PYTHON = "__pycache__"
_MOST_SHOWN = 1000
_MOST_FILES = 10_000
_BLOCK_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class TaskFile:
    """`ref`: its path in the tasks folder. `digest` (`sha256:<hex>`) is of its folder's whole content, or of the file
    alone where it lies in the tasks folder itself.
    """

    ref: str
    path: Path
    harness: Harness
    size_bytes: int
    digest: str


class TaskFiles:
    """Everything here blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def listing(self) -> list[tuple[str, Harness]]:
        """The files that could be named, by name: which `.py` files hold tasks is for the harness to say."""
        found = []
        for path in _files(self._folder):
            harness = _HARNESS_OF.get(path.suffix)
            if harness is not None:
                found.append((path.relative_to(self._folder).as_posix(), harness))
        return sorted(found)[:_MOST_SHOWN]

    def find(self, ref: str, harness: Harness | None = None) -> TaskFile:
        """Raises NotFound, Invalid."""
        try:
            root = self._folder.resolve(strict=True)
            path = (root / ref).resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise NotFound(f"task.file: there is no file {ref!r} in {self._folder}") from error
        if not path.is_relative_to(root) or not path.is_file():
            raise NotFound(f"task.file: there is no file {ref!r} in {self._folder}")
        meant = _HARNESS_OF.get(path.suffix)
        if meant is None:
            raise Invalid(f"task.file: {ref} is neither .yaml (lm-eval) nor .py (inspect-ai)")
        if harness not in (None, meant):
            raise Invalid(f"task.harness: {ref} is a task file of {meant}, not of {harness}")
        inside = path.relative_to(root)
        whole = root / inside.parts[0]
        return TaskFile(inside.as_posix(), path, meant, path.stat().st_size, _digest(whole, ref))


def _digest(whole: Path, ref: str) -> str:
    """Of a file, or of all files below a folder with their names. Raises Invalid: unreadable, or too many."""
    found = hashlib.sha256()
    try:
        paths = sorted(_files(whole)) if whole.is_dir() else [whole]
        if len(paths) > _MOST_FILES:
            raise Invalid(f"task.file: the folder of {ref} has more than {_MOST_FILES} files")
        for path in paths:
            name = path.relative_to(whole.parent).as_posix().encode(errors="surrogateescape")
            found.update(len(name).to_bytes(8) + name + path.stat().st_size.to_bytes(8))
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    found.update(block)
    except OSError as error:
        raise Invalid(f"task.file: {error.filename} cannot be read: {error.strerror}") from error
    return f"sha256:{found.hexdigest()}"


def _files(folder: Path) -> Iterator[Path]:
    """Regular files below it; links to folders are not followed, and what Python leaves behind is passed over."""
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != _BY_PYTHON and not name.startswith(".")]
        for name in names:
            path = Path(where, name)
            if not name.startswith(".") and path.is_file():
                yield path
