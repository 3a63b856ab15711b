"""Datasets on disk: found by name inside one folder, read line by line (gzip too), never whole in memory."""

import gzip
import hashlib
import heapq
import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict

from evals.errors import DatasetBroken, DatasetMissing, DatasetOutside
from evals.formats import parse_sample
from evals.formats.fields import decode
from evals.sample import AnswerIs, BrokenLine, DatasetFormat, Sample
from evals.sample_ids import SampleIds

MAX_LINE_BYTES = 8 * 1024 * 1024
_MAX_LISTED = 10
_MAX_LISTED_KEYS = 32
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
SUFFIXES = (".jsonl", ".jsonl.gz")

FieldMap = Mapping[str, str]
SampleCheck = Callable[[Sample], None]
"""Raises BrokenLine for a sample that cannot be used for what is wanted of it."""


class DatasetFacts(BaseModel):
    """What a scan found: `samples` is how many will be asked, `digest` (`sha256:<hex>`) is of the whole file.

    `name` is relative to the datasets folder; `ignored_keys` are those no format knows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    format: DatasetFormat
    samples: int
    size_bytes: int
    digest: str
    ignored_keys: list[str]


def resolve_dataset(ref: str, datasets_dir: Path) -> Path:
    """The regular file meant by a name in `datasets_dir` or a path inside it; `.jsonl` and `.jsonl.gz` may be left out.

    Symbolic links are followed first, so one that leads out is outside. Raises DatasetOutside, DatasetMissing.
    """
    root = datasets_dir.resolve()
    for name in (ref, *(f"{ref}{suffix}" for suffix in SUFFIXES)):
        try:
            path = (root / name).resolve()
            if not path.is_relative_to(root):
                raise DatasetOutside(ref)
            if path.is_file():
                return path
        except (OSError, ValueError, RuntimeError):  # a NUL, a name too long, a folder closed to us, a circle of links
            continue
    raise DatasetMissing(ref, _available(root))


def open_dataset(path: Path) -> BufferedReader:
    """Raises DatasetBroken when the file cannot be opened."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DatasetBroken(path.name, None, f"cannot be read: {error.strerror}") from error


def scan_dataset(
    path: Path,
    datasets_dir: Path,
    max_samples: int | None,
    field_map: FieldMap | None = None,
    check: SampleCheck | None = None,
    answer_is: AnswerIs | None = None,
) -> DatasetFacts:
    """Checks the first `max_samples` samples (None: all) and takes the digest of the whole file.

    Blocks; raises DatasetBroken, also for an id that is there twice and for a sample that `check` refuses.
    """
    name = str(path.relative_to(datasets_dir.resolve()))
    samples = 0
    format_: DatasetFormat | None = None
    ignored: dict[str, None] = {}
    ids = SampleIds()
    with open_dataset(path) as stream:
        for sample in read_samples(stream, name, max_samples, field_map, check, answer_is):
            samples += 1
            ids.add(sample.id)
            format_ = sample.format
            if len(ignored) < _MAX_LISTED_KEYS:
                ignored.update(dict.fromkeys(sample.metadata))
        if format_ is None:
            raise DatasetBroken(name, None, "has no samples")
        if repeated := ids.repeated():
            _refuse_repeated(stream, name, max_samples, field_map, repeated, answer_is)
        digest = digest_of(stream)
        return DatasetFacts(
            name=name,
            format=format_,
            samples=samples,
            digest=digest,
            size_bytes=stream.tell(),
            ignored_keys=sorted(ignored)[:_MAX_LISTED_KEYS],
        )


def _refuse_repeated(
    stream: BufferedReader,
    file: str,
    max_samples: int | None,
    field_map: FieldMap | None,
    repeated: Container[int],
    answer_is: AnswerIs | None,
) -> None:
    """Reads again what was read without an error, to name the lines. `repeated`: the ids' `hash`."""
    line_of_id: dict[str, int] = {}
    lines = islice(filled_lines(stream, file), max_samples)
    for index, (line, raw) in enumerate(lines):
        sample_id = parse_sample(raw, line=line, index=index, field_map=field_map, answer_is=answer_is).id
        if hash(sample_id) in repeated and line_of_id.setdefault(sample_id, line) != line:
            raise DatasetBroken(file, line, f"duplicate id {sample_id!r}, first used on line {line_of_id[sample_id]}")


def digest_of(stream: BufferedReader) -> str:
    """`sha256:<hex>` of everything in the stream, from its start; leaves it at its end. Blocks."""
    stream.seek(0)
    return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def read_samples(
    stream: BufferedReader,
    file: str,
    max_samples: int | None,
    field_map: FieldMap | None = None,
    check: SampleCheck | None = None,
    answer_is: AnswerIs | None = None,
) -> Iterator[Sample]:
    """The first `max_samples` samples (None: all) from the stream's start, lazily; `file` is its name in errors.

    Raises DatasetBroken at the line that breaks the file, has another format than the first, or is refused by `check`.
    """
    format_: DatasetFormat | None = None
    for index, (line, raw) in enumerate(filled_lines(stream, file)):
        if index == max_samples:
            return
        try:
            sample = parse_sample(raw, line=line, index=index, field_map=field_map, answer_is=answer_is)
            format_ = format_ or sample.format
            if sample.format != format_:
                raise BrokenLine(f"mixed formats: it is {sample.format}, the lines before are {format_}")
            if check is not None:
                check(sample)
        except BrokenLine as error:
            raise DatasetBroken(file, line, str(error)) from error
        yield sample


def check_lines(stream: BufferedReader, file: str) -> bool:
    """Reads all of it: every line that is not blank is a JSON object. True: it is packed with gzip.

    Raises DatasetBroken.
    """
    empty = True
    for line, raw in filled_lines(stream, file):
        empty = False
        try:
            decode(raw)
        except BrokenLine as error:
            raise DatasetBroken(file, line, str(error)) from error
    if empty:
        raise DatasetBroken(file, None, "has no samples")
    stream.seek(0)
    return stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


def filled_lines(stream: BufferedReader, file: str) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1."""
    stream.seek(0)
    magic = stream.read(len(_GZIP_MAGIC))
    stream.seek(0)
    if magic != _GZIP_MAGIC:
        yield from _lines(stream, file)
        return
    with gzip.GzipFile(fileobj=stream) as unpacked:  # leaves `stream` open
        try:
            yield from _lines(unpacked, file)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DatasetBroken(file, None, f"broken gzip: {error}") from error


def _lines(stream: BinaryIO | gzip.GzipFile, file: str) -> Iterator[tuple[int, bytes]]:
    line = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        line += 1
        if len(raw) > MAX_LINE_BYTES:
            raise DatasetBroken(file, line, f"longer than {MAX_LINE_BYTES} bytes")
        if line == 1:
            raw = raw.removeprefix(_BYTE_ORDER_MARK)
        if raw.strip():
            yield line, raw


def _available(root: Path) -> list[str]:
    try:
        names = (path.name for suffix in SUFFIXES for path in root.glob(f"*{suffix}"))
        return heapq.nsmallest(_MAX_LISTED, filter(str.isprintable, names))
    except OSError:
        return []
