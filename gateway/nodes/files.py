"""What is in a checkpoint's folder on this machine, as a digest that is equal on every node with the same files."""

import asyncio
from collections.abc import Hashable
from pathlib import Path

from stepserve.client.checkpoint import digest_of, look
from stepserve.client.errors import BadCheckpoint, CheckpointChanged

_REMEMBERED = 64


class FilesRefused(Exception):
    """The text says what is wrong with the files."""


class Files:
    """Reads a folder whole the first time, and again when one of its files was touched."""

    def __init__(self) -> None:
        self._digests: dict[Hashable, str] = {}

    async def digest(self, folder: str) -> str:
        """Raises FilesRefused where there is no checkpoint, or it cannot be read."""
        try:
            files = await asyncio.to_thread(look, Path(folder))
            key = (folder, tuple((file.name, file.state) for file in files))
            if key not in self._digests:
                found = await asyncio.to_thread(lambda: digest_of([(file, file.hash()) for file in files]))
                while len(self._digests) >= _REMEMBERED:
                    del self._digests[next(iter(self._digests))]
                self._digests[key] = found
        except CheckpointChanged as error:
            raise FilesRefused(f"{folder} changes while it is read") from error
        except BadCheckpoint as error:
            raise FilesRefused(str(error).rstrip(".")) from error
        except OSError as error:
            raise FilesRefused(f"{folder} cannot be read ({error.strerror})") from error
        return self._digests[key]
