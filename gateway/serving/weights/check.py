"""Whether pushed tensors are just those that a model has, before anything is done with them. Blocks; pure otherwise."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from gateway.errors import BadWeights, PushRefused
from stepserve.digest import CONTENT_FILES, content_digest, content_in_folders, templated_digest
from stepserve.finite import is_finite
from stepserve.shard import BadShard, Tensor, read_segments, read_tensors

_INDEX = "model.safetensors.index.json"
_PIECE_BYTES = 4 * 1024 * 1024
BODY = "the body"
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})


@dataclass(frozen=True, slots=True)
class Announced:
    """A tensor that is to come. `dtype`: what the trainer has, as safetensors names it; floats come in the model's."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """`shas`: of each tensor's bytes, by its name. `metadata` is what the safetensors headers say of themselves."""

    tensors: Sequence[Tensor]
    shas: Mapping[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(tensor.end - tensor.begin for tensor in self.tensors)

    def changed(self, before: "Checked") -> int:
        """How many tensors have other bytes."""
        return sum(before.shas.get(name) != sha for name, sha in self.shas.items())


@dataclass(frozen=True, slots=True)
class Expected:
    """What a registered checkpoint consists of: its tensors by name, and the sha256 of what else counts."""

    tensors: Mapping[str, Tensor]
    files: Mapping[str, str]
    chat_template: str | None

    @property
    def bytes(self) -> int:
        return sum(tensor.end - tensor.begin for tensor in self.tensors.values())

    @property
    def most_header_bytes(self) -> int:
        """For the headers of all tensors, each in a file of its own, and a probe."""
        return sum(1024 + 4 * len(name) for name in self.tensors) + 1024 * 1024

    @property
    def most_bytes(self) -> int:
        """How long a body with all of it can be, the headers included."""
        return self.bytes + self.most_header_bytes

    def digest(self, weights: Checked) -> str:
        """What a registration of the checkpoint with these weights would have as its digest."""
        rows = ((tensor.name, tensor.dtype, tensor.shape, weights.shas[tensor.name]) for tensor in weights.tensors)
        return templated_digest(content_digest(rows, self.files), self.chat_template)


def expected_of(folder: Path, chat_template: str | None) -> Expected:
    """What the checkpoint in `folder` consists of. Raises PushRefused where its weights are no safetensors files."""
    try:
        tensors = {tensor.name: tensor for file in weights_files(folder) for tensor in read_tensors(file)}
        names = [name for name in CONTENT_FILES if (folder / name).is_file()] + content_in_folders(folder)
        files = {name: _file_sha(folder / name) for name in names}
    except (BadShard, OSError, ValueError) as error:
        raise PushRefused(f"The names of the model's tensors cannot be read from its files: {error}.") from error
    if not tensors:
        raise PushRefused(
            "The model's registered files are not safetensors, so the names of its tensors are not known."
        )
    return Expected(tensors, files, chat_template)


def weights_files(folder: Path) -> list[Path]:
    """The safetensors files that vLLM loads of a checkpoint: those of the index, where there is one."""
    index = folder / _INDEX
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
    found = sorted(folder.glob("*.safetensors"))
    whole = [file for file in found if not file.name.startswith("consolidated")]
    return whole or found


def checked_files(folder: Path) -> Checked:
    """Of the registered files themselves: reads every byte. Raises PushRefused."""
    tensors: list[Tensor] = []
    shas: dict[str, str] = {}
    try:
        for file in weights_files(folder):
            members = read_tensors(file)
            tensors += members
            with file.open("rb") as stream:
                shas |= {tensor.name: sha_of(stream, tensor)[0] for tensor in members}
    except (BadShard, OSError, ValueError) as error:
        raise PushRefused(f"The model's weights cannot be read from its files: {error}.") from error
    return Checked(tensors, shas)


def check_piece(file: Path, begin: int, expected: Expected, there: Collection[str]) -> list[str]:
    """The names of the tensors from byte `begin` of the file on, if each is expected and none of them is `there`
    already. Reads headers alone. Raises BadWeights.
    """
    try:
        tensors = read_segments(file, BODY, expected.most_header_bytes, begin).tensors
    except BadShard as error:
        raise BadWeights([str(error)]) from error
    faults = [f"{tensor.name} was sent already" for tensor in tensors if tensor.name in there]
    faults += _misfits(tensors, expected.tensors)
    if faults:
        raise BadWeights(faults)
    return [tensor.name for tensor in tensors]


def check_announced(tensors: Sequence[Announced], expected: Expected) -> None:
    """Of tensors that are to come. Raises BadWeights."""
    if faults := list(_misfits(tensors, expected.tensors)):
        raise BadWeights(faults)


def check(file: Path, expected: Expected) -> Checked:
    """What was pushed, if it is whole and just what is expected; reads every byte. Raises BadWeights."""
    try:
        segments = read_segments(file, BODY, expected.most_header_bytes)
    except BadShard as error:
        raise BadWeights([str(error)]) from error
    faults = whole_faults(segments.tensors, expected)
    if faults:
        raise BadWeights(faults)
    shas: dict[str, str] = {}
    with file.open("rb") as stream:
        for tensor in segments.tensors:
            shas[tensor.name], is_sound = sha_of(stream, tensor)
            if not is_sound:
                faults.append(f"{tensor.name} holds numbers that are not finite (NaN or infinite)")
    if faults:
        raise BadWeights(faults)
    return Checked(segments.tensors, shas, segments.metadata)


def whole_faults(tensors: Sequence[Tensor], expected: Expected) -> list[str]:
    """Why these are not just the tensors of the model, by name, type and shape."""
    names = {tensor.name for tensor in tensors}
    missing = [f"{name} is missing" for name in expected.tensors if name not in names]
    return missing + list(_misfits(tensors, expected.tensors))


def _misfits(tensors: Sequence[Tensor | Announced], expected: Mapping[str, Tensor]) -> Iterator[str]:
    counts = Counter(tensor.name for tensor in tensors)
    yield from (f"{name} is there {count} times" for name, count in counts.items() if count > 1)
    for tensor in tensors:
        wanted = expected.get(tensor.name)
        if wanted is None:
            yield f"{tensor.name} is not a tensor of the model"
        elif tensor.shape != wanted.shape:
            yield f"{tensor.name} has the shape {list(tensor.shape)}, not {list(wanted.shape)}"
        elif tensor.dtype != wanted.dtype and not (isinstance(tensor, Announced) and _are_floats(tensor, wanted)):
            yield f"{tensor.name} is {tensor.dtype}, not {wanted.dtype}"


def _are_floats(announced: Announced, wanted: Tensor) -> bool:
    return announced.dtype in _FLOATS and wanted.dtype in _FLOATS


def sha_of(stream: BinaryIO, tensor: Tensor) -> tuple[str, bool]:
    """The sha256 of a tensor's bytes, and whether all of its numbers are finite."""
    stream.seek(tensor.begin)
    state, left, is_sound = hashlib.sha256(), tensor.end - tensor.begin, True
    may_be_infinite = tensor.name.endswith(".masked_bias")  # GPT-NeoX's, which no engine reads
    while left:
        piece = stream.read(min(left, _PIECE_BYTES))
        if not piece:
            raise OSError("the file became shorter while it was read")
        is_sound = is_sound and (may_be_infinite or is_finite(piece, tensor.dtype))
        state.update(piece)
        left -= len(piece)
    return state.hexdigest(), is_sound


def _file_sha(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
