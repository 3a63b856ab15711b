"""What the processes of a server hold, looked at from outside (Linux)."""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

_SHARED = "/dev/shm/"


@dataclass(frozen=True, slots=True)
class Holds:
    """Of all processes of a name together. `memory_bytes`: pages that several share are counted in parts (PSS)."""

    processes: int = 0
    memory_bytes: int = 0
    open_files: int = 0
    threads: int = 0
    shared_segments: int = 0

    def __add__(self, other: "Holds") -> "Holds":
        mine, theirs = asdict(self), asdict(other)
        return Holds(**{name: mine[name] + theirs[name] for name in mine})


def holds(parent: psutil.Process) -> dict[str, Holds]:
    """Of every process below `parent`, by its name."""
    found: dict[str, Holds] = {}
    for process in parent.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, FileNotFoundError, ProcessLookupError):
            name = _name(process)
            found[name] = found.get(name, Holds()) + _of(process)
    return found


def open_kinds(parent: psutil.Process, name: str) -> dict[str, int]:
    """What the open files of the processes of a name are: to say what a leak is made of."""
    kinds: Counter[str] = Counter()
    for process in parent.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            if _name(process) == name:
                for fd in Path(f"/proc/{process.pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        kinds[str(fd.readlink()).split(":[", maxsplit=1)[0]] += 1
    return dict(kinds.most_common())


def rows(database: Path) -> dict[str, int]:
    """Of each table."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}


def files(folder: Path) -> int:
    """How many there are below it, sockets too."""
    return sum(1 for path in folder.rglob("*") if not path.is_dir())


def shown(of: dict[str, Holds]) -> dict[str, dict[str, Any]]:
    return {name: asdict(each) for name, each in of.items()}


def _name(process: psutil.Process) -> str:
    command = process.cmdline()
    if not command:
        raise psutil.ZombieProcess(process.pid)
    title = " ".join(command).strip()
    return title if title.startswith("stepserve: ") else Path(command[0].split()[0]).name


def _of(process: psutil.Process) -> Holds:
    segments = {region.path for region in process.memory_maps(grouped=True) if region.path.startswith(_SHARED)}
    return Holds(1, process.memory_full_info().pss, process.num_fds(), process.num_threads(), len(segments))


def names(samples: list[dict[str, Any]]) -> Iterator[str]:
    """Of the processes that were there in at least half of the samples: others come and go."""
    seen = Counter(name for sample in samples for name in sample["processes"])
    yield from (name for name, count in seen.items() if count >= len(samples) / 2)
