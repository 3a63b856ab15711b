"""One safetensors file: its header, and whether all of the file is there.

Format: eight bytes of header length (little endian), the header as JSON, then the tensors without gaps
(https://github.com/huggingface/safetensors#format).
"""

import json
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

LONGEST_HEADER_BYTES = 100_000_000
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


class BadShard(Exception):
    """One sentence, with the file's name in it."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`begin` and `end` are byte positions in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_tensors(file: Path) -> list[Tensor]:
    """The file's tensors in the order of their bytes. Blocks; reads the header alone.

    Raises BadShard naming the file when it is torn, too long, or its header makes no sense.
    """
    with _opened(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        tensors, _, end = _segment(stream, file.name, 0, size)
    if size != end:
        raise BadShard(f"{file.name} is too long: expected {end} bytes, has {size}")
    return tensors


@dataclass(frozen=True, slots=True)
class Segments:
    """Several safetensors files, one after the other. `metadata`: what they say of themselves; the last one counts.

    A tensor that is there twice is in `tensors` twice.
    """

    tensors: list[Tensor]
    metadata: dict[str, str]


def read_segments(file: Path, name: str, most_header_bytes: int | None = None, begin: int = 0) -> Segments:
    """As `read_tensors`, of a file that holds one safetensors file or more from byte `begin` on; `name` is what errors
    call it.

    Raises BadShard, too, when all headers together are longer than `most_header_bytes`.
    """
    found = Segments([], {})
    position, left = begin, most_header_bytes
    with _opened(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        while position < size or size == begin:
            start = position
            tensors, metadata, position = _segment(stream, name, start, size, left)
            if left is not None:
                left -= position - start - sum(tensor.end - tensor.begin for tensor in tensors)
            found.tensors.extend(tensors)
            found.metadata.update(metadata)
    return found


def header_of(tensors: Iterable[Tensor]) -> tuple[bytes, int]:
    """The header of one safetensors file with these, in this order; and how many bytes follow it."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for each in tensors:
        end = position + each.end - each.begin
        entries[each.name] = {"dtype": each.dtype, "shape": list(each.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, position


def element_bytes(dtype: str) -> int:
    """Of one number; 1 where several share a byte, or the type is unknown."""
    return max(8, _BITS.get(dtype, 8)) // 8


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    try:
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise BadShard(f"{file.name} cannot be read: {error.strerror}") from error


def _segment(
    stream: BinaryIO, name: str, begin: int, size: int, most_header_bytes: int | None = None
) -> tuple[list[Tensor], dict[str, str], int]:
    """The tensors, the metadata and the end of the safetensors file that begins at byte `begin` of `size`."""
    stream.seek(begin)
    start = stream.read(8)
    if len(start) < 8:
        raise BadShard(f"{name} is torn: expected at least {begin + 8} bytes, has {size}")
    header_bytes = struct.unpack("<Q", start)[0]
    if header_bytes > LONGEST_HEADER_BYTES:
        raise BadShard(f"{name} is not a safetensors file: its header would be {header_bytes} bytes long")
    if most_header_bytes is not None and 8 + header_bytes > most_header_bytes:
        raise BadShard(f"{name} has headers that are longer than those of the tensors that it may have")
    data_start = begin + 8 + header_bytes
    if data_start > size:
        raise BadShard(f"{name} is torn: expected at least {data_start} bytes, has {size}")
    try:
        header = json.loads(stream.read(header_bytes), object_pairs_hook=_unique)
    except _TwiceError as error:
        raise BadShard(f"{name}: {error} is there twice") from error
    except (ValueError, RecursionError) as error:
        raise BadShard(f"{name} is not a safetensors file: its header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise BadShard(f"{name} is not a safetensors file: its header is not an object")
    metadata = header.pop("__metadata__", None)
    tensors = sorted(
        (_tensor(name, tensor, entry, data_start) for tensor, entry in header.items()),
        key=lambda tensor: (tensor.begin, tensor.end),
    )
    position = data_start
    for tensor in tensors:
        if tensor.begin != position:
            raise BadShard(
                f"{name}: {tensor.name} begins at byte {tensor.begin}, but the one before it ends at {position}"
            )
        position = tensor.end
    if size < position:
        raise BadShard(f"{name} is torn: expected {position} bytes, has {size}")
    said = metadata.items() if isinstance(metadata, dict) else ()
    return tensors, {key: value for key, value in said if isinstance(value, str)}, position


class _TwiceError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(name)
        found[name] = value
    return found


def _tensor(file: str, name: str, entry: Any, data_start: int) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if (
            all(isinstance(n, int) and n >= 0 for n in shape) and 0 <= begin <= end
        ):
            tensor = Tensor(name, dtype, tuple(shape), data_start + begin, data_start + end)
        case _:
            raise BadShard(f"{file}: the header's entry of {name} is malformed")
    bits = _BITS.get(dtype)
    elements = 1
    for n in shape:
        elements *= n
    if bits is not None and elements * bits != (end - begin) * 8:
        raise BadShard(f"{file}: {name} is {dtype} of shape {shape}, yet has {end - begin} bytes")
    return tensor
