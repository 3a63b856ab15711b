"""The digest of a folder on disk (stepserve.digest says what it covers), reading each byte at most once."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from control.checkpoints.digest_cache import DigestCache, stamp
from control.checkpoints.shard import Tensor
from control.errors import Invalid
from stepserve.digest import CONTENT_FILES, content_digest, content_in_folders
from stepserve.finite import is_finite

_CHUNK_BYTES = 4 * 1024 * 1024
LONGEST_FILE_BYTES = 256 * 1024 * 1024  # the gateway reads them whole; the longest known tokenizer has 35 MB


def digest(folder: Path, shards: Mapping[Path, list[Tensor]], cache: DigestCache) -> str:
    """Digest of the folder whose weights are `shards`. Blocks; reads what `cache` does not know, in pieces.

    Raises Invalid when a file changes while it is read or cannot be read, or a tensor holds NaN or infinite numbers.
    """
    tensors: list[tuple[str, str, Sequence[int], str]] = []
    for file, members in shards.items():
        hashes = _hashes(file, members, cache)
        tensors += [(tensor.name, tensor.dtype, tensor.shape, hashes[tensor.name]) for tensor in members]
    return content_digest(tensors, file_shas(folder, cache))


def file_shas(folder: Path, cache: DigestCache) -> dict[str, str]:
    """sha256 of every content file that is there, by its name in the folder. Blocks and raises as `digest`."""
    names = [name for name in CONTENT_FILES if (folder / name).is_file()]
    names += content_in_folders(folder)
    for name in names:
        if (folder / name).stat().st_size > LONGEST_FILE_BYTES:
            raise Invalid(f"{name} is longer than {LONGEST_FILE_BYTES} bytes, as no such file of a checkpoint is")
    return {name: _hashes(folder / name, None, cache)[""] for name in names}


def _hashes(file: Path, tensors: Sequence[Tensor] | None, cache: DigestCache) -> dict[str, str]:
    """sha256 of each tensor by its name; without tensors, of the whole file under the name ''."""
    try:
        before = stamp(file)
        known = cache.get(file, before)
        if known is not None and (tensors is None or cache.is_finite(file, before)):
            return known
        whole = Tensor("", "", (), 0, before.size_bytes)
        with file.open("rb") as stream:
            hashes = {
                each.name: _hash(stream, each, file.name) for each in (tensors if tensors is not None else [whole])
            }
        after = stamp(file)
    except OSError as error:
        raise Invalid(f"{file.name} cannot be read: {error.strerror}") from error
    if after != before:
        raise Invalid(f"{file.name} changed while it was read: register again when the copy is complete")
    cache.put(file, before, hashes, finite=tensors is not None)
    return hashes


def _hash(stream: BinaryIO, tensor: Tensor, file_name: str) -> str:
    """Raises Invalid when the file ends too early or a number is not finite."""
    stream.seek(tensor.begin)
    state = hashlib.sha256()
    left = tensor.end - tensor.begin
    while left:
        piece = stream.read(min(left, _CHUNK_BYTES))
        if not piece:
            raise Invalid(f"{file_name} became shorter while it was read")
        # GPT-NeoX and GPT-J keep minus infinity there, in half precision, and no engine reads it.
        if not tensor.name.endswith(".masked_bias") and not is_finite(piece, tensor.dtype):
            raise Invalid(f"{file_name}: {tensor.name} holds numbers that are not finite (NaN or infinite)")
        state.update(piece)
        left -= len(piece)
    return state.hexdigest()
