"""Which files of a repository make a checkpoint: a pure choice over the hub's listing."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from control.checkpoints.adapter_kinds import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from control.checkpoints.checkpoint import WEIGHTS
from control.checkpoints.digest import LONGEST_FILE_BYTES
from control.checkpoints.layout import INDEX
from control.errors import Invalid
from stepserve.digest import is_content

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
_DENSE = re.compile(
    r"[0-9]+_Dense/"
)  # of sentence-transformers; control.checkpoints.vector_model says which are served
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_BESIDE = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "USE_POLICY.md")


class RemoteFile(BaseModel):
    """`sha256` is known of large files, `git_sha1` (of the blob, header included) of all others."""

    model_config = ConfigDict(frozen=True)

    name: str
    size_bytes: Annotated[int, Field(ge=0, lt=2**53)]
    sha256: str | None = None
    git_sha1: str | None = None


def select(repository: str, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """The files to fetch, small ones first. Raises Invalid saying what the repository lacks.

    Code (*.py) and pickles are never among them, nor folders such as `original/` or `onnx/`.
    """
    by_name = {file.name: file for file in files}
    if ADAPTER_CONFIG in by_name and "config.json" not in by_name:
        return _adapter(repository, by_name)
    if "config.json" not in by_name:
        raise Invalid(f"{repository} holds no config.json, so no model for transformers or vLLM{_hint(by_name)}")
    if dense := sorted(name for name in by_name if _DENSE.match(name)):
        raise Invalid(f"{repository} has the module {dense[0].partition('/')[0]}, which is not served")
    shards = [name for name in by_name if _SHARD.fullmatch(name)]
    if INDEX in by_name and shards:
        weights = [INDEX, *shards]
    elif WEIGHTS in by_name:
        weights = [WEIGHTS]
    else:
        raise Invalid(f"{repository} has no safetensors ({WEIGHTS} or {INDEX}){_hint(by_name)}")
    wanted = {*weights, *_BESIDE} | {name for name in by_name if is_content(name)}
    return _smallest_first(repository, (by_name[name] for name in wanted if name in by_name))


def weights_bytes(files: Iterable[RemoteFile]) -> int:
    return sum(file.size_bytes for file in files if file.name.endswith(".safetensors"))


def _adapter(repository: str, by_name: dict[str, RemoteFile]) -> list[RemoteFile]:
    if ADAPTER_WEIGHTS not in by_name:
        raise Invalid(f"{repository} is a LoRA adapter without {ADAPTER_WEIGHTS}{_hint(by_name)}")
    wanted = {ADAPTER_CONFIG, ADAPTER_WEIGHTS, *_BESIDE}
    return _smallest_first(repository, (by_name[name] for name in wanted if name in by_name))


def _hint(by_name: dict[str, RemoteFile]) -> str:
    pickles = sorted(name for name in by_name if any(fnmatch(name, pattern) for pattern in _PICKLES))
    if pickles:
        return f": {pickles[0]} is a pickle, which can run code when it is loaded and is never fetched"
    gguf = sorted(name for name in by_name if name.endswith(".gguf"))
    return f": {gguf[0]} is GGUF, take the repository it was made from" if gguf else ""


def _smallest_first(repository: str, files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Raises Invalid for what would be fetched and then refused."""
    chosen = sorted(files, key=lambda file: (file.size_bytes, file.name))
    for file in chosen:
        if file.size_bytes > LONGEST_FILE_BYTES and not file.name.endswith(".safetensors"):
            raise Invalid(
                f"{repository}: {file.name} has {file.size_bytes} bytes; at most {LONGEST_FILE_BYTES} are taken"
            )
    return chosen
