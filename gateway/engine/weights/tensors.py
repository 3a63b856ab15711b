"""In the worker: the tensors of a file of pushed weights, without a copy of them in memory."""

from collections.abc import Iterator
from pathlib import Path

import torch

from stepserve.shard import read_segments

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def tensors_in(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors in the order of the file: safetensors, one or several. Each is good until the next is asked for
    and `file` closed. Raises BadShard.
    """
    tensors = read_segments(file, "the pushed weights").tensors
    mapped = torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8)
    for tensor in tensors:
        dtype = _DTYPES[tensor.dtype]
        flat = mapped[tensor.begin : tensor.end]
        if tensor.begin % dtype.itemsize:
            flat = flat.clone()
        yield tensor.name, flat.view(dtype).view(tensor.shape)
