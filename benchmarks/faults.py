"""Silent faults of weight loading: what an engine may hold instead of a checkpoint, with nothing that says so.

Each is made of a right checkpoint's tensors, and of those of an earlier one of the same run for what stays stale.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

Tensors = dict[str, torch.Tensor]

_EMBEDDING = "model.embed_tokens.weight"
_SQUARE = ("q_proj", "o_proj")
_FUSED = ("k_proj", "v_proj", "up_proj", "gate_proj")
_FP8_MOST = 448.0  # of e4m3


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` is a row of the table; `where` tells one fault of that kind from another."""

    kind: str
    where: str
    make: Callable[[], Tensors]


def tensor_faults(right: Tensors, earlier: Tensors) -> Iterator[Fault]:
    """Both are of one architecture, of Qwen3's names. No fault changes what it is made of."""
    layers = 1 + max(int(name.split(".")[2]) for name in right if ".layers." in name)
    for part in _FUSED:
        for name in _named(right, part):
            yield Fault(f"{part} missing", name, _with(right, {name: torch.zeros_like(right[name])}))
    for name in right:
        yield Fault("one tensor of an earlier step", name, _with(right, {name: earlier[name]}))
    for layer in range(layers):
        zeros = {name: torch.zeros_like(right[name]) for name in right if f".layers.{layer}." in name}
        yield Fault("one layer zeroed", str(layer), _with(right, zeros))
        stale = {name: earlier[name] for name in right if f".layers.{layer}." in name}
        yield Fault("one layer of an earlier step", str(layer), _with(right, stale))
    for one in range(layers):
        for other in range(one + 1, layers):
            yield Fault("two layers swapped", f"{one}, {other}", _with(right, _swapped(right, one, other)))
            for part in ("q_norm", "input_layernorm", "down_proj"):
                swapped = {name: tensor for name, tensor in _swapped(right, one, other).items() if f".{part}." in name}
                yield Fault("one tensor of two layers swapped", f"{part} of {one}, {other}", _with(right, swapped))
    for part in _SQUARE:
        for name in _named(right, part):
            yield Fault("a square matrix transposed", name, _with(right, {name: right[name].T.contiguous()}))
    for factor in (0.5, 0.9, 1.1, 2.0, 128**0.5):
        scaled = {_EMBEDDING: right[_EMBEDDING] * factor}
        yield Fault("embeddings scaled", f"by {factor:.3g}", _with(right, scaled))
    for name in _named(right, "q_proj"):
        rows = right[name].clone()
        rows[32:64], rows[64:96] = right[name][64:96], right[name][32:64]
        yield Fault("two heads swapped", name, _with(right, {name: rows}))
    for mantissa_bits in (5, 4, 3, 2):
        rounded = {name: rounded_to(tensor, mantissa_bits) for name, tensor in right.items()}
        yield Fault("weights rounded", f"to {mantissa_bits} bits of mantissa", _with(right, rounded))
    yield Fault(
        "weights cast", "to float16 and back", _with(right, {n: t.half().to(t.dtype) for n, t in right.items()})
    )
    yield Fault("weights cast", "to FP8 (e4m3), no scales", _with(right, {n: _fp8(t) for n, t in right.items()}))


def rounded_to(tensor: torch.Tensor, mantissa_bits: int) -> torch.Tensor:
    """To the nearest number of so many bits after the leading one; exponents as they are."""
    mantissa, exponent = torch.frexp(tensor.float())
    steps = float(2 ** (mantissa_bits + 1))
    return torch.ldexp((mantissa * steps).round() / steps, exponent).to(tensor.dtype)


def _fp8(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float().clamp(-_FP8_MOST, _FP8_MOST).to(torch.float8_e4m3fn).to(tensor.dtype)


def _named(tensors: Mapping[str, torch.Tensor], part: str) -> list[str]:
    return [name for name in tensors if f".{part}." in name]


def _swapped(tensors: Mapping[str, torch.Tensor], one: int, other: int) -> Tensors:
    swapped: Tensors = {}
    for name, tensor in tensors.items():
        for mine, theirs in ((one, other), (other, one)):
            if f".layers.{mine}." in name:
                swapped[name.replace(f".layers.{mine}.", f".layers.{theirs}.")] = tensor
    return swapped


def _with(right: Mapping[str, torch.Tensor], changed: Mapping[str, torch.Tensor]) -> Callable[[], Tensors]:
    return lambda: {**right, **changed}
