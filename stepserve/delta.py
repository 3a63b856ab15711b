"""Deltas of weights: what changed in tensors, element by element and bit for bit, in few bytes.

A delta is safetensors files, one after the other (`stepserve.shard`). The tensors in them, of type U8, are changes,
each under the name of its tensor; the `__metadata__` of the last has, as JSON under `METADATA_KEY`, a row for each
tensor of the model, whether it changed or not: `[name, dtype, shape, sha256 of its bytes afterwards]`.

A *change* of a tensor is a row of blocks, one for each 2^20 elements in their order: two numbers (unsigned, 32 bits,
little endian), how many elements changed and how many bytes follow; then those bytes, one zstd frame that says how long
its content is. In it are, for each changed element,

- the gap: how many unchanged ones are before it, in three bytes;
- the difference: its new bits minus the old ones as integers of its width (wrapping), zigzag, so that small ones of
  either sign are small numbers.

Of all gaps there is the lowest byte first, then the next; the same of the differences. A block in which nothing changed
is two zeros. Pure.
"""

import mmap
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import zstandard

MEDIA_TYPE = "application/vnd.stepserve.delta"
METADATA_KEY = "stepserve.delta"
BLOCK_ELEMENTS = 1 << 20
_HEAD = struct.Struct("<II")
_GAP_BYTES = 3
_LEVEL = 1  # bytes of a plane are told apart by how often they come, and hardly ever repeat in a row
_UNSIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}
_SIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}

Array = np.ndarray[Any, Any]


def as_bytes(buffer: bytes | memoryview | mmap.mmap) -> Array:
    """The same memory, for the functions below."""
    return np.frombuffer(buffer, np.uint8)


class BadChange(Exception):
    """The end of a sentence about it: what is wrong."""


def change_of(before: Array, after: Array, width: int) -> Iterator[bytes]:
    """The blocks that make `after` of `before`: bytes, as many, of elements with `width` bytes each (1, 2, 4 or 8).

    Besides the blocks some 40 bytes for each element of one block are in memory.
    """
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    old, new = before.view(_UNSIGNED[width]), after.view(_UNSIGNED[width])
    for begin in range(0, len(old), BLOCK_ELEMENTS):
        mine, theirs = old[begin : begin + BLOCK_ELEMENTS], new[begin : begin + BLOCK_ELEMENTS]
        positions = np.flatnonzero(mine != theirs)
        if not len(positions):
            yield _HEAD.pack(0, 0)
            continue
        if len(positions) < len(mine):
            mine, theirs = mine[positions], theirs[positions]
        gaps = (np.diff(positions, prepend=-1) - 1).astype("<u4")
        content = _planes(gaps, 4)[:_GAP_BYTES].tobytes() + _planes(_zigzag(theirs - mine, width), width).tobytes()
        frame = compressor.compress(content)
        yield _HEAD.pack(len(positions), len(frame)) + frame


def apply_change(change: memoryview, target: Array, width: int) -> int:
    """Makes of `target` (bytes, as `change_of` takes them) what the change leads to, in place; how many elements
    change.

    Raises BadChange: `target` is a mixture then. No block takes more memory than one in which every element changes.
    """
    decompressor = zstandard.ZstdDecompressor()
    elements = target.view(_UNSIGNED[width])
    position = total = 0
    for begin in range(0, len(elements), BLOCK_ELEMENTS):
        block = elements[begin : begin + BLOCK_ELEMENTS]
        if len(change) - position < _HEAD.size:
            raise BadChange("ends too early")
        count, length = _HEAD.unpack_from(change, position)
        position += _HEAD.size
        if len(change) - position < length:
            raise BadChange("ends too early")
        if count > len(block) or (length and not count):
            raise BadChange(f"says that {count} of {len(block)} elements changed, in {length} bytes")
        if count:
            _apply(_content(decompressor, change[position : position + length], count, width), block, count, width)
        position += length
        total += count
    if position != len(change):
        raise BadChange("is longer than its tensor needs")
    return total


def _apply(content: bytes, block: Array, count: int, width: int) -> None:
    planes = np.frombuffer(content, np.uint8).reshape(_GAP_BYTES + width, count)
    differences = _unzigzag(_woven(planes[_GAP_BYTES:], width), width)
    positions = np.cumsum(_woven(planes[:_GAP_BYTES], 4).astype(np.int64) + 1) - 1
    if positions[-1] >= len(block):
        raise BadChange("changes elements that the tensor does not have")
    if count == len(block):
        block += differences
    else:
        block[positions] += differences


def _content(decompressor: zstandard.ZstdDecompressor, frame: memoryview, count: int, width: int) -> bytes:
    """Of a frame that says beforehand that it is as long as `count` elements need. Raises BadChange."""
    size = count * (_GAP_BYTES + width)
    try:
        said = zstandard.frame_content_size(frame)
        if said != size:
            raise BadChange(f"has a frame of {said} bytes where there must be {size}")
        content: bytes = decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadChange(f"has a frame that is not zstd ({error})") from error
    if len(content) != size:
        raise BadChange(f"has a frame of {len(content)} bytes where there must be {size}")
    return content


def _planes(numbers: Array, width: int) -> Array:
    """`[width, n]`: the lowest byte of each, then the next."""
    return numbers.view(np.uint8).reshape(-1, width).T


def _woven(planes: Array, width: int) -> Array:
    numbers = np.zeros((planes.shape[1], width), np.uint8)
    numbers[:, : len(planes)] = planes.T
    return numbers.reshape(-1).view(_UNSIGNED[width])


def _zigzag(difference: Array, width: int) -> Array:
    signs: Array = (difference.view(_SIGNED[width]) >> (8 * width - 1)).view(_UNSIGNED[width])
    numbers: Array = (difference << 1) ^ signs
    return numbers


def _unzigzag(numbers: Array, width: int) -> Array:
    signs: Array = -(numbers & 1).view(_SIGNED[width])
    difference: Array = (numbers >> 1) ^ signs.view(_UNSIGNED[width])
    return difference
