"""Finds out of the engine's own log why it did not start: vLLM raises only "see root cause above" in this process."""

import re
from dataclasses import dataclass
from pathlib import Path

_LONGEST_READ_BYTES = 256 * 1024
_LONGEST_CAUSE = 500
_EXCEPTION_LINE = re.compile(r"(?:^|\s)(?P<kind>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Killed)): (?P<text>\S.*)$")
_SECOND_HAND = (
    "Engine core initialization failed", "WorkerProc initialization failed", "Worker failed with error",
    "EngineCore encountered an issue",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LogMark:
    """A place in the engine's log; what is written later belongs to the engine being started."""

    path: Path
    offset: int

    @classmethod
    def now(cls, path: Path) -> "LogMark":
        return cls(path, path.stat().st_size if path.exists() else 0)

    def root_cause(self) -> str | None:
        """The first exception since the mark that is not a mere echo of another process's, or None."""
        for line in self._lines():
            found = _EXCEPTION_LINE.search(line)
            if found and not any(echo in line for echo in _SECOND_HAND):
                return f"{found['kind']}: {found['text'].strip()}"[:_LONGEST_CAUSE]
        return None

    def last_words(self) -> str:
        """Why an engine died, as far as its log says: the root cause, or else the last line since the mark."""
        if (cause := self.root_cause()) is not None:
            return cause
        lines = [line.strip() for line in self._lines() if line.strip()]
        return lines[-1][:_LONGEST_CAUSE] if lines else f"nothing is in {self.path.name} about it"

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            # A log that is shorter than it was has been turned over: all of it is new.
            file.seek(self.offset if self.path.stat().st_size >= self.offset else 0)
            return file.read(_LONGEST_READ_BYTES).decode(errors="replace").splitlines()
