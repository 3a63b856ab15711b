"""Chunks that lie on this disk already: the tensors and files of registered models, by the hash of their bytes."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from control.checkpoints.digest_cache import DigestCache, stamp
from control.checkpoints.shard import read_tensors
from control.errors import Invalid
from stepserve.digest import CONTENT_FILES

_PIECE_BYTES = 4 * 1024 * 1024
_HASHED_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    file: Path
    begin: int
    end: int


def known_chunks(folders: Iterable[Path], cache: DigestCache) -> dict[str, Place]:
    """Where each hash that `cache` knows is to be found. Blocks; reads headers alone, no weights."""
    places: dict[str, Place] = {}
    for folder in folders:
        for file in folder.glob("*.safetensors"):
            hashes = _hashes(file, cache)
            if not hashes:
                continue
            try:
                tensors = read_tensors(file)
            except Invalid:
                continue
            for tensor in tensors:
                if tensor.name in hashes:
                    places.setdefault(hashes[tensor.name], Place(file, tensor.begin, tensor.end))
        for name in CONTENT_FILES:
            if (hashes := _hashes(folder / name, cache)) and "" in hashes:
                places.setdefault(hashes[""], Place(folder / name, 0, (folder / name).stat().st_size))
    return places


def copy_chunk(place: Place, sha256: str, target: int, position: int) -> bool:
    """Copies the bytes to an open file; False when they are no longer what their hash says. Blocks. Raises OSError."""
    state = hashlib.sha256()
    with place.file.open("rb") as source:
        source.seek(place.begin)
        left = place.end - place.begin
        while left:
            piece = source.read(min(left, _PIECE_BYTES))
            if not piece:
                return False
            state.update(piece)
            os.pwrite(target, piece, position)
            position += len(piece)
            left -= len(piece)
    return state.hexdigest() == sha256


def sha256_of(file: int, begin: int, end: int) -> str:
    """Of bytes [begin, end) of an open file. Blocks."""
    state = hashlib.sha256()
    buffer = memoryview(bytearray(min(_HASHED_BYTES, max(1, end - begin))))  # one that stays in the processor's cache
    while begin < end:
        count = os.preadv(file, [buffer[: end - begin]], begin)
        if not count:
            break
        state.update(buffer[:count])
        begin += count
    return state.hexdigest()


def _hashes(file: Path, cache: DigestCache) -> dict[str, str] | None:
    try:
        return cache.get(file, stamp(file))
    except OSError:
        return None
