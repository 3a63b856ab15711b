"""Shared memory that a killed engine leaves behind: only one that ends by itself unlinks its own."""

import logging
from pathlib import Path

log = logging.getLogger(__name__)

_SHARED = "/dev/shm/"  # noqa: S108 - no file of ours is put there: it is where Linux keeps POSIX shared memory
_NAMES = "psm_"  # as Python names it


def segments_of(pid: int) -> frozenset[Path]:
    """The segments that a process has mapped; none where it cannot be told."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return frozenset()
    paths = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if _SHARED + _NAMES in line}
    return frozenset(Path(path) for path in paths if not path.endswith("(deleted)"))


def remove(segments: frozenset[Path]) -> None:
    """Removes those that are still there; whoever has one mapped keeps it."""
    for segment in segments:
        try:
            segment.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("cannot remove %s: %s", segment, error)
        else:
            log.info("removed %s, which a killed engine left behind", segment)
