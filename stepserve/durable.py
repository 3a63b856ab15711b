"""Files that appear whole or not at all, and survive a power cut. Everything here blocks and raises OSError."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


def write_whole(path: Path, content: bytes | str, *, durable: bool = True, aside: Path | None = None) -> None:
    """Replaces `path` in one step; text is written as UTF-8. The arguments are those of `written_aside`."""
    with written_aside(path, durable=durable, aside=aside) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def written_aside(path: Path, *, durable: bool = True, aside: Path | None = None) -> Iterator[Path]:
    """Yields a file name to write to in the same folder; leaving the context without an error renames it to `path`.

    A reader sees the old file or the new one. After an error there is only the old one. `durable` False is for caches
    that may be lost with the power: nothing is fsynced. `aside`: the name to write to, where several processes may
    write at once.
    """
    part = aside or path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # a link would be written through
    try:
        yield part
        if durable:
            sync(part)
            put_in_place(part, path)
        else:
            part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def put_in_place(part: Path, path: Path) -> None:
    """Renames a file that is synced already, and syncs the folder: from here on the new name survives a power cut."""
    part.replace(path)
    sync(path.parent)


def sync_open(file: IO[Any]) -> None:
    """Flushes and fsyncs what was written to an open file."""
    file.flush()
    os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Fsyncs a file or a folder by its name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Fsyncs every file and folder below `folder`, and `folder` itself."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync(Path(root, name))
        sync(Path(root))
