"""What was appended is recovered; what a crash or a full disk left of a line is not."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stepserve.jobs.jsonl_log import JsonlLog, whole_records

Row = dict[str, int]


def _encode(row: Row) -> bytes:
    return json.dumps(row).encode()


def _decode(line: bytes) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict) or "n" not in row:
        raise ValueError("not a row")
    return row


def _log(path: Path) -> JsonlLog[Row]:
    return JsonlLog(path, _encode, _decode)


@pytest.mark.parametrize("torn", [b'{"n": 2', b'{"n": 2}', b"\n", b"\0\0\0\0\n\0\0", b'{"m": 2}\n', b"\xff\n"])
def test_what_follows_the_last_whole_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": 1}\n' + torn)
    with _log(path) as log:
        assert list(log.recover()) == [{"n": 0}, {"n": 1}]
        log.append([{"n": 3}])
    assert path.read_bytes() == b'{"n": 0}\n{"n": 1}\n{"n": 3}\n'


def test_whole_lines_after_a_broken_one_are_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n"\n{"n": 2}\n')
    with _log(path) as log:
        assert list(log.recover()) == [{"n": 0}]
    assert path.read_bytes() == b'{"n": 0}\n'


def test_records_are_there_for_others_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with _log(path) as log:
        log.append({"n": number} for number in range(3))
        assert list(whole_records(path, _decode)) == [{"n": 0}, {"n": 1}, {"n": 2}]
        log.append([])
        log.sync()
    assert path.read_bytes().count(b"\n") == 3


def test_a_finished_log_is_read_past_its_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 0}\nnonsense\n{"n": 2}\n{"n": 3}')
    assert list(whole_records(path, _decode)) == [{"n": 0}, {"n": 2}]
    with pytest.raises(FileNotFoundError):
        list(whole_records(tmp_path / "gone.jsonl", _decode))


def test_unwanted_records_are_removed_and_appending_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with _log(path) as log:
        log.append({"n": number} for number in range(4))
        log.keep_only(lambda row: row["n"] % 2 == 0)
        log.append([{"n": 9}])
        assert list(log.recover()) == [{"n": 0}, {"n": 2}, {"n": 9}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


@contextmanager
def _files_of_at_most(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to write past it, as a full disk does. Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_half_of_an_append_keeps_none_of_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with _log(path) as log:
        log.append([{"n": 0}])
        with _files_of_at_most(30), pytest.raises(OSError, match="File too large"):
            log.append({"n": number} for number in range(1, 9))
        assert path.read_bytes() == b'{"n": 0}\n'
        log.append([{"n": 1}])
        assert list(log.recover()) == [{"n": 0}, {"n": 1}]
