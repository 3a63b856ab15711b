"""One safetensors file: its header, and whether all of the file is there.

Format: eight bytes of header length (little endian), the header as JSON, then the tensors without gaps
(https://github.com/huggingface/safetensors#format).
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            if len(start) < 8:
                raise BadShard(f"{file.name} is torn: expected at least 8 bytes, has {size}")
            header_bytes = struct.unpack("<Q", start)[0]
            if header_bytes > LONGEST_HEADER_BYTES:
                raise BadShard(f"{file.name} is not a safetensors file: its header would be {header_bytes} bytes long")
            if 8 + header_bytes > size:
                raise BadShard(f"{file.name} is torn: expected at least {8 + header_bytes} bytes, has {size}")
            header = json.loads(stream.read(header_bytes))
    except OSError as error:
        raise BadShard(f"{file.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadShard(f"{file.name} is not a safetensors file: its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise BadShard(f"{file.name} is not a safetensors file: its header is no object")
    header.pop("__metadata__", None)
    data_start = 8 + header_bytes
    tensors = sorted(
        (_tensor(file, name, entry, data_start) for name, entry in header.items()),
        key=lambda tensor: (tensor.begin, tensor.end),
    )
    position = data_start
    for tensor in tensors:
        if tensor.begin != position:
            raise BadShard(
                f"{file.name}: {tensor.name} begins at byte {tensor.begin}, but the one before it ends at {position}"
            )
        position = tensor.end
    if size != position:
        word = "torn" if size < position else "too long"
        raise BadShard(f"{file.name} is {word}: expected {position} bytes, has {size}")
    return tensors


def _tensor(file: Path, name: str, entry: Any, data_start: int) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if (
            all(isinstance(n, int) and n >= 0 for n in shape) and 0 <= begin <= end
        ):
            tensor = Tensor(name, dtype, tuple(shape), data_start + begin, data_start + end)
        case _:
            raise BadShard(f"{file.name}: the header's entry of {name} is malformed")
    bits = _BITS.get(dtype)
    elements = 1
    for n in shape:
        elements *= n
    if bits is not None and elements * bits != (end - begin) * 8:
        raise BadShard(f"{file.name}: {name} is {dtype} of shape {shape}, yet has {end - begin} bytes")
    return tensor
