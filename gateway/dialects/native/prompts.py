"""The system prompts of /solve: files in the base directory that can be edited while the server runs."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

Task = Literal["math", "coding"]
TASKS: tuple[Task, ...] = ("math", "coding")


@dataclass(frozen=True, slots=True)
class Prompts:
    """`<folder>/solve_<task>.txt`; an empty file means no system prompt, a missing one the packaged text."""

    folder: Path

    def install(self) -> None:
        """Puts the packaged texts where there are none yet. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for task in TASKS:
            path = self._path(task)
            if not path.exists():
                path.write_text(_packaged(task), encoding="utf-8")

    def of(self, task: Task) -> str:
        """Read at each request: it is one small file. Undecodable bytes are replaced."""
        try:
            return self._path(task).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return _packaged(task).strip()

    def _path(self, task: Task) -> Path:
        return self.folder / f"solve_{task}.txt"


def _packaged(task: Task) -> str:
    return files("gateway.dialects.native").joinpath("templates", f"solve_{task}.txt").read_text(encoding="utf-8")
