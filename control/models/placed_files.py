"""Removing exactly those files that the server put into a folder itself: never through a link, never anybody else's."""

import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_Version = tuple[int, int]  # size in bytes and modification time in nanoseconds
Manifest = Mapping[str, _Version]


@dataclass(frozen=True, slots=True)
class Removal:
    """`files` are what goes, `left` what stays there: paths in `folder`, "." being the folder itself.

    `note` says in one sentence why something stays, with the command that removes it by hand.
    """

    folder: Path
    files: list[str]
    size_bytes: int
    left: list[str]
    note: str | None

    @property
    def complete(self) -> bool:
        """Nothing of it is left."""
        return not self.left

    def show(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "files": self.files,
            "size_bytes": self.size_bytes,
            "left": self.left,
            "note": self.note,
        }


def manifest_of(folder: Path) -> dict[str, _Version]:
    """Every regular file below the folder, by its path in it. Blocks. Raises OSError."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                found[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)
    return found


def left_alone(folder: Path, why: str) -> Removal:
    """The folder stays, with all that is in it."""
    return Removal(folder, [], 0, ["."], f"{folder} {why} and is left as it is{_by_hand(folder)}")


def removal(folder: Path, manifest: Manifest, *, really: bool) -> Removal:
    """What of the folder is still as the server placed it and goes; with `really` it is gone afterwards. Blocks.

    Every step is taken from an open directory and follows no link, so nothing that is exchanged meanwhile leads
    elsewhere. What the server may not remove is left too.
    """
    files, left, size_bytes = [], [], 0
    try:
        parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        return left_alone(folder, f"cannot be looked into ({error.strerror})")
    try:
        try:
            top = os.open(folder.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        except FileNotFoundError:
            return Removal(folder, [], 0, [], f"{folder} is not there any more")
        except OSError:
            return left_alone(folder, "is not the folder any more that the server placed")
        try:
            own_folders = {parent.as_posix() for name in manifest for parent in Path(name).parents}
            for root, folders, names, at in os.fwalk(".", topdown=False, dir_fd=top):
                for name in names:
                    path = (Path(root) / name).as_posix()
                    version = _version(name, at)
                    if version is not None and version == manifest.get(path) and _gone(os.unlink, name, at, really):
                        files.append(path)
                        size_bytes += version[0]
                    else:
                        left.append(path)
                for name in folders:
                    path = (Path(root) / name).as_posix()
                    inside = any(other.startswith(f"{path}/") for other in left)
                    if not inside and not (path in own_folders and _gone(os.rmdir, name, at, really)):
                        left.append(path)
        finally:
            os.close(top)
        if not left and not _gone(os.rmdir, folder.name, parent, really):
            left.append(".")
    finally:
        os.close(parent)
    files.sort()
    left.sort()
    note = f"{len(left)} entries of {folder} were not put there by the server, or have changed since, and are left"
    return Removal(folder, files, size_bytes, left, f"{note}{_by_hand(folder)}" if left else None)


def _version(name: str, at: int) -> _Version | None:
    try:
        status = os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _gone(remove: Any, name: str, at: int, really: bool) -> bool:
    if not really:
        return True
    try:
        remove(name, dir_fd=at)
    except OSError:
        return False
    return True


def _by_hand(folder: Path) -> str:
    return f"; to remove it: rm -r -- {shlex.quote(str(folder))}"
