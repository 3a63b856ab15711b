"""The checkpoint to be pushed: which files belong to it, what they consist of, and whether they hold still."""

import hashlib
import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepserve.client.errors import BadCheckpoint, CheckpointChanged
from stepserve.digest import content_digest, content_in_folders, is_content
from stepserve.file_names import RULE, can_be_sent
from stepserve.shard import BadShard, Tensor, read_tensors

log = logging.getLogger(__name__)

_HASHED_BYTES = 512 * 1024  # stays in the processor's cache
_SKIPPED_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".tmp", ".lock"})
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class State:
    """Tells whether a file was touched."""

    size_bytes: int
    modified_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes [begin, end) of a file: a tensor, a header, or a whole small file."""

    begin: int
    end: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file as it was when it was first looked at."""

    name: str
    path: Path
    state: State
    tensors: Sequence[Tensor]

    @property
    def size_bytes(self) -> int:
        return self.state.size_bytes

    def spans(self) -> list[tuple[int, int]]:
        """What it is cut into: its tensors with what lies between them, or all of it."""
        if not self.size_bytes:
            return []
        marks = sorted({0, self.size_bytes, *(t.begin for t in self.tensors), *(t.end for t in self.tensors)})
        return list(itertools.pairwise(marks))

    def hash(self) -> list[Chunk]:
        """Reads all of it. Blocks. Raises CheckpointChanged, BadCheckpoint."""
        chunks = []
        buffer = memoryview(bytearray(_HASHED_BYTES))
        try:
            with self.path.open("rb", buffering=0) as stream:
                for begin, end in self.spans():
                    state, left = hashlib.sha256(), end - begin
                    while left and (count := stream.readinto(buffer[:left])):
                        state.update(buffer[:count])
                        left -= count
                    chunks.append(Chunk(begin, end, state.hexdigest()))
        except OSError as error:
            raise BadCheckpoint(f"{self.path} cannot be read: {error.strerror}.") from error
        self.check_still()
        return chunks

    def check_still(self) -> None:
        """Raises CheckpointChanged when it is not what it was."""
        try:
            now = _state(self.path)
        except OSError:
            raise CheckpointChanged(f"{self.path} went away while it was pushed.") from None
        if now != self.state:
            raise CheckpointChanged(f"{self.path} changed while it was pushed: push again when it is complete.")


def look(folder: Path) -> list[LocalFile]:
    """The files that make the model, the small ones first; a trainer's optimizer states and pickles stay behind.

    So do files whose names no server takes, in one line of the log, unless the model cannot do without them.
    Raises BadCheckpoint saying what is missing, torn or cannot be sent.
    """
    if not folder.is_dir():
        raise BadCheckpoint(f"There is no folder {folder}.")
    found = [path for path in folder.iterdir() if path.is_file() and _belongs(path)]
    paths = [path for path in found if can_be_sent(path.name)]
    _leave_out(folder, sorted(path.name for path in found if not can_be_sent(path.name)), {path.name for path in paths})
    paths += [folder / name for name in content_in_folders(folder)]
    names = {path.name for path in paths}
    if not names & {"config.json", "adapter_config.json"}:
        raise BadCheckpoint(f"{folder} holds no checkpoint: config.json is missing.")
    files = [_look_at(path, path.relative_to(folder).as_posix()) for path in paths]
    if not any(file.tensors for file in files):
        raise BadCheckpoint(f"{folder} holds no weights: there is no safetensors file.")
    _check_index(folder, names)
    return sorted(files, key=lambda file: (file.size_bytes, file.name))


def digest_of(files: Sequence[tuple[LocalFile, Sequence[Chunk]]]) -> str:
    """What the server will call the same content, if every safetensors file belongs to the model."""
    tensors: list[tuple[str, str, Sequence[int], str]] = []
    contents: dict[str, str] = {}
    for file, chunks in files:
        shas = {(chunk.begin, chunk.end): chunk.sha256 for chunk in chunks}
        empty = hashlib.sha256().hexdigest()
        tensors += [(t.name, t.dtype, t.shape, shas.get((t.begin, t.end), empty)) for t in file.tensors]
        if is_content(file.name):
            contents[file.name] = chunks[0].sha256 if chunks else empty
    return content_digest(tensors, contents)


def _belongs(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() not in _SKIPPED_SUFFIXES


def _leave_out(folder: Path, left_out: list[str], sent: set[str]) -> None:
    """Raises BadCheckpoint when weights are among them that the index names, or all that there are."""
    if not left_out:
        return
    weights = [name for name in left_out if name.endswith(".safetensors")]
    others = [name for name in sent if name.endswith(".safetensors")]
    needed = [name for name in weights if name in _indexed(folder)] or ([] if others else weights)
    if needed:
        raise BadCheckpoint(f"{folder / needed[0]} cannot be sent under this name ({RULE}): rename it.")
    log.warning("%s: left out, since their names cannot be sent (%s): %s", folder, RULE, ", ".join(left_out))


def _indexed(folder: Path) -> set[str]:
    """The shards that the index names; none where it cannot be read, of which `_check_index` speaks."""
    try:
        return set(json.loads((folder / _INDEX).read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return set()


def _look_at(path: Path, name: str) -> LocalFile:
    try:
        state = _state(path)
        tensors = read_tensors(path) if path.suffix == ".safetensors" else []
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read: {error.strerror}.") from error
    except BadShard as error:
        raise BadCheckpoint(f"{path.parent}: {error}.") from error
    return LocalFile(name, path, state, tensors)


def _check_index(folder: Path, names: set[str]) -> None:
    if _INDEX not in names:
        return
    try:
        wanted = set(json.loads((folder / _INDEX).read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadCheckpoint(f"{folder / _INDEX} cannot be used: {error}.") from error
    missing = sorted(wanted - names)
    if missing:
        raise BadCheckpoint(f"{folder / missing[0]} is missing, {_INDEX} names it.")


def _state(path: Path) -> State:
    status = path.stat()
    return State(status.st_size, status.st_mtime_ns, status.st_ino)
