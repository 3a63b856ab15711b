"""Weights straight from a trainer's memory: tensors become safetensors one by one, on their way to the server."""

import importlib
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

_PIECE_BYTES = 512 * 1024
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

    `changed` of all `tensors` have other bytes than before; `proof["kind"]` says what was checked. `base`: what
    came, in `received_bytes`, was a delta for the weights with that digest. `gateways`: how it went on each of a fleet.
    """

    id: str
    version: int
    weight_version: str | None = None
    digest: str
    bytes: int
    changed: int
    tensors: int
    base: str | None = None
    received_bytes: int | None = None
    received_ms: float
    checked_ms: float
    paused_ms: float
    held_ms: float
    in_flight: int
    proof: dict[str, Any] | None = None
    persisted_as: str | None = None
    gateways: list[dict[str, Any]] | None = None


class ExpectedTensor(Result):
    name: str
    dtype: str
    shape: list[int]


class ExpectedWeights(Result):
    """What the server's model consists of. `delta_base`: the digest that a delta can be for now."""

    id: str
    version: int
    weight_version: str | None = None
    digest: str
    delta_base: str | None = None
    bytes: int
    tensors: list[ExpectedTensor]

    @property
    def dtypes(self) -> dict[str, str]:
        return {tensor.name: tensor.dtype for tensor in self.tensors}


Pieces = Iterator[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class WeightsBody:
    """The body of one push. `length`: in bytes; None for what is read once. `base`: it is a delta for the weights with
    that digest.
    """

    pieces: Pieces
    length: int | None
    base: str | None = None
    kind: str = "application/octet-stream"

    @classmethod
    def of(cls, source: Source, expected: ExpectedWeights, probe: Mapping[str, Any] | None) -> "WeightsBody":
        """Floating-point tensors are sent in the types that the server's model has. What is only another name of a
        tensor that is sent, as a tied head is, is left out where the server's model does not have it.

        Raises BadCheckpoint for a source that holds no tensors.
        """
        dtypes = expected.dtypes
        tail = header({}, said_of(probe)) if probe is not None else b""
        tensors = tensors_of(source, dtypes)
        if not isinstance(tensors, Mapping):
            return cls(_pieces(tensors, dtypes, tail), None)
        return cls(_pieces(tensors.items(), dtypes, tail), length_of(tensors, dtypes) + len(tail))

    def headers(self) -> dict[str, str]:
        """And the trace that the caller is in, so that the push is a part of it."""
        headers = {"content-type": self.kind} | trace_headers()
        return headers if self.length is None else headers | {"content-length": str(self.length)}


def trace_headers() -> dict[str, str]:
    """Empty where the program does not use OpenTelemetry, or is in no span."""
    headers: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        context = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
        context.TraceContextTextMapPropagator().inject(headers)
    return headers


def expected_weights(model: str = "active") -> Call[ExpectedWeights]:
    """What the active model consists of, by names, types and shapes. For a key with the scope `weights`."""
    return Call("GET", route_of(model), ExpectedWeights.model_validate)


def route_of(model: str) -> str:
    return f"/models/{quote(model, safe='')}/weights"


@dataclass(frozen=True, slots=True)
class PushRequest:
    """All of a push but its body."""

    model: str
    version: str | None
    persist: bool
    in_flight: str
    timeout_s: float

    def arguments(self, body: WeightsBody) -> dict[str, Any]:
        """For httpx."""
        params = {"in_flight": self.in_flight, "timeout_s": f"{self.timeout_s:g}"}
        said = {"version": self.version, "persist": "true" if self.persist else None, "base": body.base}
        return {
            "url": route_of(self.model),
            "params": params | {name: value for name, value in said.items() if value is not None},
            "headers": body.headers(),
            "timeout": push_timeout(self.timeout_s),
        }


def tensors_of(source: Source, dtypes: Mapping[str, str]) -> Mapping[str, Any] | Iterable[tuple[str, Any]]:
    """A mapping of what is to be sent, or what is read once."""
    if hasattr(source, "state_dict"):
        source = source.state_dict()
    if not isinstance(source, Mapping):
        tensors: Iterable[tuple[str, Any]] = source
        return tensors
    return _without_aliases(source, dtypes)


def said_of(probe: Mapping[str, Any] | None) -> dict[str, str]:
    """What the metadata of a body says of a probe."""
    return {METADATA_KEY: json.dumps(probe)} if probe is not None else {}


def in_pieces(data: memoryview) -> Pieces:
    for begin in range(0, len(data), _PIECE_BYTES):
        yield data[begin : begin + _PIECE_BYTES]


def push_timeout(timeout_s: float) -> httpx.Timeout:
    return httpx.Timeout(
        connect=_CONNECT_TIMEOUT_S, read=timeout_s + _ANSWER_MARGIN_S, write=_WRITE_TIMEOUT_S, pool=_CONNECT_TIMEOUT_S
    )


def _without_aliases(tensors: Mapping[str, Any], dtypes: Mapping[str, str]) -> dict[str, Any]:
    sent = {_place(tensor) for name, tensor in tensors.items() if name in dtypes}
    return {name: tensor for name, tensor in tensors.items() if name in dtypes or _place(tensor) not in sent}


def _place(tensor: Any) -> object:
    return (tensor.data_ptr(), tuple(tensor.shape)) if hasattr(tensor, "data_ptr") else id(tensor)


def _pieces(tensors: Iterable[tuple[str, Any]], dtypes: Mapping[str, str], tail: bytes) -> Pieces:
    """One safetensors file a tensor, so that nothing of a later one need be known; and at last the probe."""
    for name, tensor in tensors:
        dtype = sent_as(name, tensor, dtypes)
        data = bytes_of(tensor, dtype)
        entry = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [0, len(data)]}
        yield header({name: entry}, {})
        yield from in_pieces(data)
    if tail:
        yield tail


def length_of(tensors: Mapping[str, Any], dtypes: Mapping[str, str]) -> int:
    """In bytes, each tensor in a safetensors file of its own. Raises BadCheckpoint."""
    return sum(_length(name, tensor, dtypes) for name, tensor in tensors.items())


def _length(name: str, tensor: Any, dtypes: Mapping[str, str]) -> int:
    dtype = sent_as(name, tensor, dtypes)
    size = _size(tensor, dtype)
    return size + len(header({name: {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [0, size]}}, {}))


def header(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    said = {**({"__metadata__": dict(metadata)} if metadata else {}), **entries}
    text = json.dumps(said, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def sent_as(name: str, tensor: Any, dtypes: Mapping[str, str]) -> str:
    """As safetensors names it. Raises BadCheckpoint."""
    own = _TORCH_DTYPES.get(str(getattr(tensor, "dtype", None)))
    if own is None:
        raise BadCheckpoint(f"{name} is not a PyTorch tensor that can be sent, but a {type(tensor).__name__}.")
    wanted = dtypes.get(name, own)
    return wanted if wanted in _FLOATS and own in _FLOATS else own


def _size(tensor: Any, dtype: str) -> int:
    item_bytes = getattr(sys.modules["torch"], _FLOATS[dtype]).itemsize if dtype in _FLOATS else tensor.element_size()
    return int(tensor.numel() * item_bytes)


def bytes_of(tensor: Any, dtype: str) -> memoryview:
    """The tensor's bytes on the CPU: its own memory where it is there already, in that type and in one piece."""
    torch = sys.modules["torch"]  # whoever has tensors has it loaded
    flat = tensor.detach()
    if dtype in _FLOATS:
        flat = flat.to(dtype=getattr(torch, _FLOATS[dtype]))
    return memoryview(flat.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
