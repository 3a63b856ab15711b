"""What a client says of the files that it uploads."""

import re
from typing import Annotated

from pydantic import ConfigDict, Field, field_validator, model_validator

from stepserve.file_names import RULE, can_be_sent
from stepserve.request_model import RequestModel

MAX_FILES = 10_000
MAX_CHUNKS = 500_000
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_file_name(name: str) -> str:
    """A path inside the checkpoint's folder. Raises ValueError naming it."""
    if not can_be_sent(name):
        raise ValueError(f"{name!r} is not a valid file name: {RULE} or has '..' in it")
    if name.lower().endswith(PICKLES):
        raise ValueError(f"{name} is a pickle, which is never taken: safetensors are")
    return name


def check_sha256(text: str) -> str:
    """In lower case. Raises ValueError."""
    lowered = text.strip().lower().removeprefix("sha256:")
    if not _SHA256.fullmatch(lowered):
        raise ValueError(f"{text!r} is not a sha256 in hexadecimal digits")
    return lowered


class _Body(RequestModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileSize(_Body):
    name: str
    size_bytes: Annotated[int, Field(ge=0, lt=2**50)]

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        return check_file_name(value)


UploadName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x20-\x7e]+$")]


class BeginUpload(_Body):
    """`upload` names who uploads what, the same at every try; `files` are all that the checkpoint will have."""

    upload: UploadName
    files: Annotated[list[FileSize], Field(min_length=1, max_length=MAX_FILES)]

    @model_validator(mode="after")
    def _each_once(self) -> "BeginUpload":
        names = [file.name for file in self.files]
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if twice is not None:
            raise ValueError(f"files: {twice} is there twice")
        return self


class ChunkOfFile(_Body):
    size_bytes: Annotated[int, Field(gt=0)]
    sha256: str

    @field_validator("sha256")
    @classmethod
    def _check_sha(cls, value: str) -> str:
        return check_sha256(value)


class DeclareFile(_Body):
    """A file as chunks one after the other, of any sizes: those that the server has already need not be sent."""

    upload: UploadName
    chunks: Annotated[list[ChunkOfFile], Field(max_length=MAX_CHUNKS)]


class OpenPiece(_Body):
    """The gateway's question when a body is about to come in: the PUT's own headers."""

    model_id: str
    name: str
    content_length: int | None
    content_range: str | None = None
    upload: str | None = None
    sha256: str | None = None


class ClosePiece(_Body):
    """The gateway's report: so many bytes are in the file. `trouble`: why there are no more."""

    ticket: str
    written_bytes: Annotated[int, Field(ge=0)]
    trouble: str | None = None
    disk_full: bool = False
