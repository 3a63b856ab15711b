"""How two versions of a dataset differ: by id where rows have one, else by what is in them."""

import asyncio
import json
from collections.abc import Mapping
from io import BufferedReader, BytesIO
from pathlib import Path

import pytest

from evals import dataset_versions, row_index
from evals.dataset_store import FileDatasetStore
from evals.row_index import Changes, RowIndex


def index(*rows: Mapping[str, object]) -> RowIndex:
    found = RowIndex.of(json.dumps(row).encode() for row in rows)
    assert isinstance(found, RowIndex)
    return found


A, B, C = ({"id": name, "question": f"What is {name}?", "answer": name} for name in "abc")
PLAIN = [{"question": f"What is {n}+1?", "answer": n + 1} for n in range(4)]


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ([A, B], [A, B], Changes(0, 0, 0)),
        ([A, B], [B, A], Changes(0, 0, 0)),
        ([A, B], [A, B, C], Changes(1, 0, 0)),
        ([A, B, C], [A, C], Changes(0, 1, 0)),
        ([A, B], [A, {**B, "answer": "other"}], Changes(0, 0, 1)),
        ([A, B], [C, {**A, "answer": "other"}], Changes(1, 1, 1)),
        ([A], [dict(reversed(A.items()))], Changes(0, 0, 0)),
        ([{**A, "id": 1}], [{**A, "id": "1"}], Changes(1, 1, 0)),
        (PLAIN[:2], PLAIN, Changes(2, 0, 0)),
        (PLAIN, PLAIN[1:], Changes(0, 1, 0)),
        (PLAIN[:1], [{**PLAIN[0], "answer": 9}], Changes(1, 1, 0)),
        ([PLAIN[0]], [PLAIN[0], PLAIN[0], PLAIN[0]], Changes(2, 0, 0)),
        ([A, A], [A], Changes(0, 1, 0)),
        ([], [A], Changes(1, 0, 0)),
    ],
)
def test_what_changed(before: list[Mapping[str, object]], after: list[Mapping[str, object]], changes: Changes) -> None:
    assert index(*after).since(index(*before)) == changes


def test_it_is_the_same_when_it_was_kept(tmp_path: Path) -> None:
    before = index(A, *PLAIN)
    before.write(tmp_path / "rows.npz")
    assert index(B, *PLAIN).since(RowIndex.read(tmp_path / "rows.npz")) == Changes(1, 1, 0)


@pytest.mark.parametrize("kept_bytes", [0, 10, 200])
def test_a_torn_index_is_made_again(kept_bytes: int, tmp_path: Path) -> None:
    def note(content: bytes, digest: str) -> None:
        dataset_versions.note(BufferedReader(BytesIO(content)), "a.jsonl", digest, tmp_path)

    note(b'{"id": 1}\n', "first")
    (rows,) = tmp_path.rglob("rows.npz")
    rows.write_bytes(rows.read_bytes()[:kept_bytes])
    note(b'{"id": 1}\n{"id": 2}\n', "second")
    note(b'{"id": 2}\n', "third")
    third, second, _ = dataset_versions.versions("a.jsonl", tmp_path)
    assert (second["digest"], second["changes"], second["rows"]) == ("second", None, 2)
    assert third["changes"] == {"added": 0, "removed": 1, "changed": 0}


def test_a_row_that_is_nested_too_deeply_stops_no_reader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "deep.jsonl"
    file.write_bytes(b"[" * 200_000 + b"]" * 200_000 + b"\n")
    facts = asyncio.run(FileDatasetStore().facts("deep", tmp_path))
    assert facts["error"]
    assert "is not noted" in caplog.text


def test_of_a_file_too_long_rows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_index, "MOST_ROWS", 3)
    assert RowIndex.of(json.dumps(row).encode() for row in PLAIN) == 4
    assert isinstance(RowIndex.of(json.dumps(row).encode() for row in PLAIN[:3]), RowIndex)
