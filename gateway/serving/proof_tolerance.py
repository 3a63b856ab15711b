"""How far from its reference a right load may be, in nats on average: what rounding does, with room above it.

Rounding moves some models ten times as far as others, so a reference that says how far bfloat16 moves its own
checkpoint (`noise`) is held to that; one that does not, to the most that any architecture was moved. `python -m
benchmarks.architectures` measures fresh engines against references, `python -m benchmarks.rounding` checkpoints in
float32 against themselves in fewer bits; each figure below names its source.
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rounding:
    """`most`: the largest mean difference that was measured, in nats. `times`: how many times what bfloat16 does to the
    same checkpoint it does, at most. `least`: a tolerance is never below this; what two kernels may differ by.
    """

    most: float
    times: float
    least: float
    source: str


# Of the type that the engine computes in.
DTYPES = {
    "bfloat16": Rounding(
        0.075, 1.0, 0.03, "transformers, 30 architectures: 0.008 to 0.034, Mixtral 0.065, Granite 0.074"
    ),
    "float16": Rounding(0.011, 0.15, 0.01, "transformers, 8 architectures: 0.001 to 0.011"),
    "float32": Rounding(0.001, 0.01, 0.005, "a bound, not measured: sums in another order"),
}

# Of a checkpoint's quantised weights, in addition: a trainer's reference is that of the full ones.
EIGHT_BIT_INTEGERS = Rounding(0.14, 2.5, 0.0, "benchmarks.rounding, int8 a row")
EIGHT_BIT_FLOATS = Rounding(0.45, 9.0, 0.0, "benchmarks.rounding, fp8 a row")
FOUR_BITS = Rounding(1.15, 40.0, 0.0, "benchmarks.rounding, int4 in groups of 128, to the nearest")

# Of a LoRA adapter, in addition: its kernels round between the two small matrices.
ADAPTER = Rounding(0.14, 2.0, 0.0, "float32 PEFT against adapters on an engine in bfloat16: 0.016 to 0.14")

_BYTE = 8
_FULL_CACHES = {"auto", *DTYPES}

# Above what rounding was found to do to this very checkpoint. Engines were 0.91 times that far from computed references
# (Llama, Qwen3); a trainer's autocast, which adds and normalises in float32, shows 0.6 to 1.0 of it.
ROOM = {"computed": 1.5, "reference": 2.25}
ROOM_UNKNOWN = 1.15  # above the most of all architectures
# A mean over few tokens scatters more: of 50 tokens it was up to 1.7 times that of 430 (experts, whose choice one
# rounding can turn over), else up to 1.3.
_SCATTER = 3.0


def tolerance_of(
    kind: Literal["reference", "computed"],
    noise: float | None,
    dtype: str,
    quantization: str | None = None,
    bits: int | None = None,
    kv_cache_dtype: str = "auto",
    *,
    is_adapter: bool = False,
) -> float:
    """For a mean over very many tokens, in nats. `kind` and `noise` are the reference's.

    `dtype` is what the engine computes in (one that is not known here counts as bfloat16), `quantization` vLLM's name
    for how the weights are quantised, `bits` their width, if that is known. `kv_cache_dtype` is vLLM's name as well.
    """
    computing = DTYPES.get(dtype, DTYPES["bfloat16"])
    kinds = [computing]
    if quantization is not None:
        kinds.append(_quantised(quantization, bits))
    if kv_cache_dtype not in _FULL_CACHES:  # a bound, not measured: what as few bits do to all weights
        kinds.append(_quantised(kv_cache_dtype, None))
    if is_adapter:
        kinds.append(ADAPTER)
    if not noise:
        allowed = ROOM_UNKNOWN * sum(each.most for each in kinds)
    else:
        allowed = ROOM[kind] * noise * sum(each.times for each in kinds)
    return max(allowed, computing.least)


def over(tokens: int, tolerance: float) -> float:
    """The tolerance for a mean over so many tokens; `tolerance` is for very many."""
    return round(tolerance * (1 + _SCATTER / math.sqrt(max(1, tokens))), 4)


def _quantised(method: str, bits: int | None) -> Rounding:
    """Methods that come in several widths may be of 4 bits, unless `bits` says otherwise."""
    if "fp8" in method:
        return EIGHT_BIT_FLOATS
    if "int8" in method:
        return EIGHT_BIT_INTEGERS
    return FOUR_BITS if bits is None or bits < _BYTE else EIGHT_BIT_FLOATS  # integers or floats: the coarser
