"""What a delta makes of the weights that serve: in memory of its own, checked, and before anybody waits. Blocks."""

import mmap
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from gateway.errors import BadWeights
from gateway.serving.weights.check import BODY, Checked, Expected, sha_of, whole_faults
from gateway.serving.weights.staged import StagedWeights
from stepserve.delta import METADATA_KEY, BadChange, apply_change, as_bytes
from stepserve.shard import BadShard, Segments, Tensor, element_bytes, header_of, read_segments

_COPIED_BYTES = 64 * 1024 * 1024

Row = tuple[str, str, tuple[int, ...], str]
"""Of a delta: a tensor's name, type, shape, and the sha256 of its bytes afterwards."""


def assembled(delta: Path, base: StagedWeights, expected: Expected) -> StagedWeights:
    """The weights that the file `delta` makes of `base`, which stays as it is. Every byte that changed is read again.

    Raises BadWeights; OSError when memory is short.
    """
    assert base.checked is not None, "it serves"
    try:
        segments = read_segments(delta, BODY, expected.most_header_bytes)
    except BadShard as error:
        raise BadWeights([str(error)]) from error
    rows = _rows(segments.metadata)
    faults = whole_faults([Tensor(name, dtype, shape, 0, 0) for name, dtype, shape, _ in rows], expected)
    faults += _misfits(segments.tensors, expected)
    if faults:
        raise BadWeights(faults)
    made = StagedWeights()
    try:
        tensors = _copy(base, base.checked.tensors, made)
        shas = {name: sha for name, _, _, sha in rows}
        changed = {each.name for each in segments.tensors}
        faults = list(apply_changes(delta, segments, tensors, made.descriptor))
        faults = faults or list(_otherwise(made.path, base.checked.shas, changed, tensors, shas))
        if faults:
            raise BadWeights(faults)
        made.checked = Checked(tensors, shas, segments.metadata)
    except BaseException:
        made.close()
        raise
    return made


def _rows(metadata: Mapping[str, str]) -> list[Row]:
    """Raises BadWeights."""
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise BadWeights([f"{BODY} has no {METADATA_KEY} in its __metadata__: this is not a delta, or not all of one"])
    try:
        return msgspec.json.decode(text, type=list[Row])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadWeights([f"{METADATA_KEY} is not a list of [name, dtype, shape, sha256] ({error})"]) from error


def _misfits(changes: Sequence[Tensor], expected: Expected) -> Iterator[str]:
    for name, count in Counter(change.name for change in changes).items():
        if name not in expected.tensors:
            yield f"{name} changes, and is not a tensor of the model"
        elif count > 1:
            yield f"{name} changes {count} times"
    for change in changes:
        if change.dtype != "U8":
            yield f"the change of {change.name} is {change.dtype}, not U8"


def _copy(base: StagedWeights, tensors: Sequence[Tensor], made: StagedWeights) -> list[Tensor]:
    """One safetensors file with the tensors; where they are in it. Raises OSError."""
    header, data_bytes = header_of(tensors)
    os.truncate(made.descriptor, len(header) + data_bytes)
    position = os.pwrite(made.descriptor, header, 0)
    os.lseek(made.descriptor, position, os.SEEK_SET)
    copies = []
    for tensor in tensors:
        copies.append(Tensor(tensor.name, tensor.dtype, tensor.shape, position, position + tensor.end - tensor.begin))
        source = tensor.begin
        while source < tensor.end:
            count = os.sendfile(made.descriptor, base.descriptor, source, min(tensor.end - source, _COPIED_BYTES))
            source += count
        position = copies[-1].end
    return copies


def apply_changes(delta: Path, segments: Segments, tensors: Sequence[Tensor], descriptor: int) -> Iterator[str]:
    """To the `tensors` of an open file, all changes in the file `delta`; yields the faults that end one. Blocks."""
    places = {tensor.name: tensor for tensor in tensors}
    with delta.open("rb") as stream:
        changes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    target = as_bytes(mmap.mmap(descriptor, 0))
    for change in segments.tensors:
        place = places[change.name]
        try:
            apply_change(
                memoryview(changes)[change.begin : change.end],
                target[place.begin : place.end],
                element_bytes(place.dtype),
            )
        except BadChange as error:
            yield f"the change of {change.name} {error}"


def _otherwise(
    file: Path, before: Mapping[str, str], changed: set[str], tensors: Sequence[Tensor], shas: Mapping[str, str]
) -> Iterator[str]:
    """Tensors that are not what the delta says that they are, or hold what is not finite."""
    with file.open("rb") as stream:
        for tensor in tensors:
            sha, is_sound = sha_of(stream, tensor) if tensor.name in changed else (before[tensor.name], True)
            if sha != shas[tensor.name]:
                yield f"{tensor.name} would not be what its checksum says"
            elif not is_sound:
                yield f"{tensor.name} holds numbers that are not finite (NaN or infinite)"
