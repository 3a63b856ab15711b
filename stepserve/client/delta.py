"""Pushes that send what changed since the last one, and all of it where the server has not got that any more."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from stepserve.client.errors import Conflict
from stepserve.client.weights import (
    ExpectedWeights,
    Pieces,
    PushedWeights,
    Source,
    WeightsBody,
    bytes_of,
    header,
    in_pieces,
    length_of,
    said_of,
    sent_as,
    tensors_of,
)
from stepserve.shard import element_bytes

ANCHOR_EVERY = 50
_BASE_GONE = "delta_base_unavailable"


@dataclass(slots=True)
class _Tensor:
    """As it was sent. `sha`: of its bytes; None until somebody asks."""

    dtype: str
    shape: tuple[int, ...]
    data: Any
    sha: str | None = None

    def row(self, name: str) -> list[Any]:
        if self.sha is None:
            self.sha = hashlib.sha256(self.data).hexdigest()
        return [name, self.dtype, list(self.shape), self.sha]


@dataclass(slots=True)
class KeptWeights:
    """All tensors of the last push, in the types that were sent: as much memory as they take in the server's model.

    `deltas`: how many pushes ago all of them were sent.
    """

    digest: str
    deltas: int
    tensors: dict[str, _Tensor]


@dataclass(slots=True)
class DeltaPush:
    """One push of `source`. What was `kept` of the last one is changed on the way, and of no use to anybody else: a
    push that fails keeps nothing, and the next one sends everything.
    """

    expected: ExpectedWeights
    probe: Mapping[str, Any] | None
    kept: KeptWeights | None
    body: WeightsBody = field(init=False)
    _tensors: dict[str, _Tensor] = field(init=False)
    _names: list[str] = field(default_factory=list, init=False)  # as the source gave them

    @classmethod
    def of(
        cls,
        source: Source,
        expected: ExpectedWeights,
        probe: Mapping[str, Any] | None,
        kept: KeptWeights | None,
        anchor_every: int,
    ) -> "DeltaPush":
        """All tensors go once more after `anchor_every` deltas. Raises BadCheckpoint as WeightsBody.of."""
        if kept is not None and (kept.digest != expected.delta_base or kept.deltas >= anchor_every):
            kept = None
        push = cls(expected, probe, kept)
        push._tensors = kept.tensors if kept is not None else {}
        tensors = tensors_of(source, expected.dtypes)
        each = tensors.items() if isinstance(tensors, Mapping) else tensors
        if kept is not None:
            push.body = WeightsBody(push._changes(each), None, kept.digest, _codec().MEDIA_TYPE)
        elif isinstance(tensors, Mapping):
            push.body = WeightsBody(push._whole(each), length_of(tensors, expected.dtypes) + len(push._tail))
        else:
            push.body = WeightsBody(push._whole(each), None)
        return push

    def instead(self, error: Conflict) -> WeightsBody:
        """All tensors, where the server refused the delta since its base has gone meanwhile. Raises `error`."""
        if self.kept is None or error.code != _BASE_GONE:
            raise error
        for _ in self.body.pieces:  # what was not read yet of a source that is read once
            pass
        self.kept = None
        pieces = list(self._sent_again())
        return WeightsBody(iter(pieces), sum(map(len, pieces)))

    def keeps(self, pushed: PushedWeights) -> KeptWeights:
        return KeptWeights(pushed.digest, self.kept.deltas + 1 if self.kept is not None else 0, self._tensors)

    @property
    def _tail(self) -> bytes:
        return header({}, said_of(self.probe)) if self.probe is not None else b""

    def _whole(self, tensors: Iterable[tuple[str, Any]]) -> Pieces:
        codec, dtypes = _codec(), self.expected.dtypes
        for name, tensor in tensors:
            dtype = sent_as(name, tensor, dtypes)
            data = codec.as_bytes(bytes_of(tensor, dtype)).copy()
            kept = self._tensors[name] = _Tensor(dtype, tuple(tensor.shape), data)
            yield from _segment(name, kept.dtype, kept.shape, memoryview(data))
        if self.probe is not None:
            yield self._tail

    def _sent_again(self) -> Pieces:
        for name in self._names:
            tensor = self._tensors[name]
            yield from _segment(name, tensor.dtype, tensor.shape, memoryview(tensor.data))
        if self.probe is not None:
            yield self._tail

    def _changes(self, tensors: Iterable[tuple[str, Any]]) -> Pieces:
        codec, dtypes, rows = _codec(), self.expected.dtypes, []
        for name, tensor in tensors:
            dtype = sent_as(name, tensor, dtypes)
            new, shape = codec.as_bytes(bytes_of(tensor, dtype)), tuple(tensor.shape)
            kept = self._tensors.get(name)
            if kept is None or (kept.dtype, kept.shape) != (dtype, shape):
                # The server says what is wrong with it; and it is sent where there is no delta after all.
                kept = self._tensors[name] = _Tensor(dtype, shape, new.copy())
            elif change := _blocks(codec.change_of(kept.data, new, element_bytes(dtype))):
                kept.data[:], kept.sha = new, None
                yield from _segment(name, "U8", (len(change),), memoryview(change))
            self._names.append(name)
            rows.append(kept.row(name))
        yield header({}, {codec.METADATA_KEY: json.dumps(rows)} | said_of(self.probe))


def _segment(name: str, dtype: str, shape: tuple[int, ...], data: memoryview) -> Pieces:
    yield header({name: {"dtype": dtype, "shape": list(shape), "data_offsets": [0, len(data)]}}, {})
    yield from in_pieces(data)


def _blocks(blocks: Iterator[bytes]) -> bytes:
    """Empty where nothing changed."""
    found = list(blocks)
    return b"".join(found) if any(map(any, found)) else b""


def _codec() -> ModuleType:
    """Only who sends deltas pays for numpy and zstd."""
    from stepserve import delta  # noqa: PLC0415 - as it says

    return delta
