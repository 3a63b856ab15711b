"""Finds out of the engine's own log why it did not start: vLLM raises only "see root cause above" in this process."""

import re
from dataclasses import dataclass
from pathlib import Path

_LONGEST_READ_BYTES = 256 * 1024
_EXCEPTION_LINE = re.compile(r"(?:^|\s)(?P<kind>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Killed)): (?P<text>\S.*)$")
_SECOND_HAND = ("Engine core initialization failed", "WorkerProc initialization failed", "Worker failed with error")


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
        if not self.path.exists():
            return None
        with self.path.open("rb") as file:
            # A log that is shorter than it was has been turned over: all of it is new.
            file.seek(self.offset if self.path.stat().st_size >= self.offset else 0)
            text = file.read(_LONGEST_READ_BYTES).decode(errors="replace")
        for line in text.splitlines():
            found = _EXCEPTION_LINE.search(line)
            if found and not any(echo in line for echo in _SECOND_HAND):
                return f"{found['kind']}: {found['text'].strip()}"[:500]
        return None
