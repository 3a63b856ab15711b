"""Weights straight from a trainer's memory: tensors become safetensors one by one, on their way to the server."""

import json
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from stepserve.client.errors import BadCheckpoint
from stepserve.client.results import Result
from stepserve.client.wire import Call
from stepserve.probe import METADATA_KEY

_PIECE_BYTES = 1024 * 1024
_CONNECT_TIMEOUT_S = 5.0
_WRITE_TIMEOUT_S = 120.0
_ANSWER_MARGIN_S = 600.0  # beside what `timeout_s` bounds: every byte is read once more, and the proof is taken

_TORCH_DTYPES = {
    "torch.bool": "BOOL", "torch.uint8": "U8", "torch.int8": "I8", "torch.int16": "I16", "torch.int32": "I32",
    "torch.int64": "I64", "torch.float16": "F16", "torch.bfloat16": "BF16", "torch.float32": "F32",
    "torch.float64": "F64", "torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2",
}  # fmt: skip
_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}

Source = Any
"""A model (with `state_dict`), a mapping of names to tensors, or an iterable of names and tensors."""


class PushedWeights(Result):
    """How a push ended; times in milliseconds. `version` counts the model's pushes; `weight_version` is the trainer's
    own name. Requests were answered while it was received and checked.

    `changed` of all `tensors` have other bytes than before; `proof["kind"]` says what was checked.
    """

    id: str
    version: int
    weight_version: str | None = None
    digest: str
    bytes: int
    changed: int
    tensors: int
    received_ms: float
    checked_ms: float
    paused_ms: float
    held_ms: float
    in_flight: int
    proof: dict[str, Any] | None = None
    persisted_as: str | None = None


class ExpectedTensor(Result):
    name: str
    dtype: str
    shape: list[int]


class ExpectedWeights(Result):
    """What the server's model consists of."""

    id: str
    version: int
    weight_version: str | None = None
    digest: str
    bytes: int
    tensors: list[ExpectedTensor]


@dataclass(frozen=True, slots=True)
class WeightsBody:
    """The body of one push. `length`: in bytes; None for an iterable, which is read once."""

    pieces: Iterator[bytes | memoryview]
    length: int | None

    @classmethod
    def of(cls, source: Source, expected: ExpectedWeights, probe: Mapping[str, Any] | None) -> "WeightsBody":
        """Floating-point tensors are sent in the types that the server's model has. What is only another name of a
        tensor that is sent, as a tied head is, is left out where the server's model does not have it.

        Raises BadCheckpoint for a source that holds no tensors.
        """
        dtypes = {tensor.name: tensor.dtype for tensor in expected.tensors}
        tail = _header({}, {METADATA_KEY: json.dumps(probe)}) if probe is not None else b""
        if hasattr(source, "state_dict"):
            source = source.state_dict()
        if not isinstance(source, Mapping):
            return cls(_pieces(source, dtypes, tail), None)
        tensors = _without_aliases(source, dtypes)
        length = sum(_length(name, tensor, dtypes) for name, tensor in tensors.items()) + len(tail)
        return cls(_pieces(tensors.items(), dtypes, tail), length)

    def headers(self) -> dict[str, str]:
        kind = {"content-type": "application/octet-stream"}
        return kind if self.length is None else kind | {"content-length": str(self.length)}


def expected_weights(model: str = "active") -> Call[ExpectedWeights]:
    """What the active model consists of, by names, types and shapes. For a key with the scope `weights`."""
    return Call("GET", route_of(model), ExpectedWeights.model_validate)


def route_of(model: str) -> str:
    return f"/models/{quote(model, safe='')}/weights"


def push_params(version: str | None, in_flight: str, timeout_s: float, *, persist: bool) -> dict[str, str]:
    params = {"in_flight": in_flight, "timeout_s": f"{timeout_s:g}"}
    if version is not None:
        params["version"] = version
    return params | ({"persist": "true"} if persist else {})


def push_timeout(timeout_s: float) -> httpx.Timeout:
    return httpx.Timeout(
        connect=_CONNECT_TIMEOUT_S, read=timeout_s + _ANSWER_MARGIN_S, write=_WRITE_TIMEOUT_S, pool=_CONNECT_TIMEOUT_S
    )


def _without_aliases(tensors: Mapping[str, Any], dtypes: Mapping[str, str]) -> dict[str, Any]:
    sent = {_place(tensor) for name, tensor in tensors.items() if name in dtypes}
    return {name: tensor for name, tensor in tensors.items() if name in dtypes or _place(tensor) not in sent}


def _place(tensor: Any) -> object:
    return (tensor.data_ptr(), tuple(tensor.shape)) if hasattr(tensor, "data_ptr") else id(tensor)


def _pieces(tensors: Iterable[tuple[str, Any]], dtypes: Mapping[str, str], tail: bytes) -> Iterator[bytes | memoryview]:
    """One safetensors file a tensor, so that nothing of a later one need be known; and at last the probe."""
    for name, tensor in tensors:
        dtype = _sent_as(name, tensor, dtypes)
        data = _bytes(tensor, dtype)
        entry = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [0, len(data)]}
        yield _header({name: entry}, {})
        for begin in range(0, len(data), _PIECE_BYTES):
            yield data[begin : begin + _PIECE_BYTES]
    if tail:
        yield tail


def _length(name: str, tensor: Any, dtypes: Mapping[str, str]) -> int:
    dtype = _sent_as(name, tensor, dtypes)
    size = _size(tensor, dtype)
    return size + len(_header({name: {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [0, size]}}, {}))


def _header(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    said = {**({"__metadata__": dict(metadata)} if metadata else {}), **entries}
    text = json.dumps(said, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _sent_as(name: str, tensor: Any, dtypes: Mapping[str, str]) -> str:
    """As safetensors names it. Raises BadCheckpoint."""
    own = _TORCH_DTYPES.get(str(getattr(tensor, "dtype", None)))
    if own is None:
        raise BadCheckpoint(f"{name} is not a PyTorch tensor that can be sent, but a {type(tensor).__name__}.")
    wanted = dtypes.get(name, own)
    return wanted if wanted in _FLOATS and own in _FLOATS else own


def _size(tensor: Any, dtype: str) -> int:
    item_bytes = getattr(sys.modules["torch"], _FLOATS[dtype]).itemsize if dtype in _FLOATS else tensor.element_size()
    return int(tensor.numel() * item_bytes)


def _bytes(tensor: Any, dtype: str) -> memoryview:
    """The tensor's bytes on the CPU: its own memory where it is there already, in that type and in one piece."""
    torch = sys.modules["torch"]  # whoever has tensors has it loaded
    flat = tensor.detach()
    if dtype in _FLOATS:
        flat = flat.to(dtype=getattr(torch, _FLOATS[dtype]))
    return memoryview(flat.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
