"""Files on their way from a hub: how much of them is there, and whether they are what was listed."""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

from control.pull.selection import RemoteFile

PARTIAL = ".partial"

_READ_BYTES = 4 * 1024 * 1024


def present_bytes(files: Sequence[RemoteFile], folder: Path) -> int:
    """What is there already, whole or in part."""
    total = 0
    for file in files:
        for path in (folder / file.name, folder / f"{file.name}{PARTIAL}"):
            with contextlib.suppress(OSError):
                total += min(path.stat().st_size, file.size_bytes)
                break
    return total


def has_content(path: Path, file: RemoteFile) -> bool:
    """Whether the file at `path` is the one that was listed: by its hash, or where the hub gave none by its size."""
    if path.stat().st_size != file.size_bytes:
        return False
    if file.sha256 is not None:
        return hash_of(path, hashlib.sha256()) == file.sha256
    if file.git_sha1 is not None:
        state = hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)
        return hash_of(path, state) == file.git_sha1
    return True


def hash_of(path: Path, state: "hashlib._Hash") -> str:
    with path.open("rb") as stream:
        while piece := stream.read(_READ_BYTES):
            state.update(piece)
    return state.hexdigest()
