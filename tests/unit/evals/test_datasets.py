import gzip
import hashlib
import os
from pathlib import Path

import pytest

from evals.datasets import MAX_LINE_BYTES, DatasetFacts, open_dataset, read_samples, resolve_dataset, scan_dataset
from evals.errors import DatasetBroken, DatasetMissing, DatasetOutside

LINE = b'{"question": "q", "answer": "a"}\n'


@pytest.fixture
def datasets(tmp_path: Path) -> Path:
    folder = tmp_path / "datasets"
    (folder / "sub").mkdir(parents=True)
    (folder / "math.jsonl").write_bytes(LINE)
    (folder / "sub" / "deep.jsonl").write_bytes(LINE)
    (tmp_path / "secret.jsonl").write_bytes(LINE)
    return folder


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("math.jsonl", "math.jsonl"),
        ("math", "math.jsonl"),
        ("sub/deep.jsonl", "sub/deep.jsonl"),
        ("sub/../math.jsonl", "math.jsonl"),
        ("{datasets}/math.jsonl", "math.jsonl"),
        ("{datasets}/sub/deep", "sub/deep.jsonl"),
    ],
)
def test_resolves_names_and_paths_inside(datasets: Path, ref: str, name: str) -> None:
    assert resolve_dataset(ref.format(datasets=datasets), datasets) == (datasets / name).resolve()


@pytest.mark.parametrize(
    "ref", ["../secret.jsonl", "../secret", "/etc/passwd", "..", "sub/../../secret.jsonl", "{datasets}x/math.jsonl"]
)
def test_outside_is_refused_whether_it_exists_or_not(datasets: Path, ref: str) -> None:
    with pytest.raises(DatasetOutside):
        resolve_dataset(ref.format(datasets=datasets), datasets)


def test_a_link_out_is_outside(datasets: Path) -> None:
    (datasets / "link.jsonl").symlink_to(datasets.parent / "secret.jsonl")
    (datasets / "folder").symlink_to(datasets.parent)
    for ref in ("link.jsonl", "link", "folder/secret.jsonl"):
        with pytest.raises(DatasetOutside):
            resolve_dataset(ref, datasets)


def test_a_link_inside_and_a_linked_folder_are_followed(datasets: Path) -> None:
    (datasets / "latest.jsonl").symlink_to("math.jsonl")
    linked = datasets.parent / "linked"
    linked.symlink_to(datasets)
    assert resolve_dataset("latest", datasets).name == "math.jsonl"
    assert resolve_dataset(f"{linked}/math.jsonl", linked) == (datasets / "math.jsonl").resolve()


def test_what_is_no_file_is_missing_and_never_waited_for(datasets: Path) -> None:
    os.mkfifo(datasets / "pipe.jsonl")
    (datasets / "loop.jsonl").symlink_to("loop.jsonl")
    for ref in ("nope", "sub", ".", "pipe.jsonl", "loop.jsonl", "a\0b", "x" * 5000, "\ud800"):
        with pytest.raises(DatasetMissing):
            resolve_dataset(ref, datasets)


def test_missing_lists_at_most_ten(datasets: Path) -> None:
    for number in range(20):
        (datasets / f"set_{number:02}.jsonl").write_bytes(LINE)
    with pytest.raises(DatasetMissing) as caught:
        resolve_dataset("nope.jsonl", datasets)
    assert caught.value.available == ("math.jsonl", *(f"set_{number:02}.jsonl" for number in range(9)))
    assert "'nope.jsonl'" in str(caught.value)
    assert "set_08.jsonl" in str(caught.value)


def test_missing_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissing, match=r"no \.jsonl file"):
        resolve_dataset("nope", tmp_path)


def _scan(folder: Path, content: bytes, max_samples: int | None = 1000) -> DatasetFacts:
    path = folder / "set.jsonl"
    path.write_bytes(content)
    return scan_dataset(path.resolve(), folder, max_samples)


def test_scan_gives_the_facts(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"prompt": "p", "answer": 1, "level": 2}\r\n\r\n \n{"prompt": "r", "answer": 2, "by": "me"}'
    path = tmp_path / "sub" / "set.jsonl"
    path.parent.mkdir()
    path.write_bytes(content)
    facts = scan_dataset(path, tmp_path, 1000)
    assert facts.model_dump() == {
        "name": "sub/set.jsonl",
        "format": "prompt_answer",
        "samples": 2,
        "size_bytes": len(content),
        "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "ignored_keys": ["by", "level"],
    }


def test_scan_checks_max_samples_lines_and_hashes_all(tmp_path: Path) -> None:
    content = LINE * 3 + b"not JSON\n"
    facts = _scan(tmp_path, content, max_samples=3)
    assert facts.samples == 3
    assert facts.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    with pytest.raises(DatasetBroken, match=r"set\.jsonl, line 4: broken JSON"):
        _scan(tmp_path, content, max_samples=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "set.jsonl: has no samples"),
        (b"\n \n\t\n", "set.jsonl: has no samples"),
        (LINE + b"{", "set.jsonl, line 2: broken JSON"),
        (LINE + b"\n\xff\xfe\n", "set.jsonl, line 3: not UTF-8"),
        (LINE + b'{"prompt": "p", "answer": "a"}\n', "set.jsonl, line 2: mixed formats"),
        (
            b'{"id": "x", "question": "q", "answer": "a"}\n' + LINE + b'{"id": "x", "question": "r", "answer": "a"}\n',
            "set.jsonl, line 3: duplicate id 'x', first used on line 1",
        ),
        (b'{"id": 2, "question": "q", "answer": "a"}\n' + LINE, "line 2: duplicate id '2', first used on line 1"),
    ],
)
def test_scan_names_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DatasetBroken) as caught:
        _scan(tmp_path, content)
    assert message in str(caught.value)


def test_ids_beyond_the_samples_wanted_may_repeat(tmp_path: Path) -> None:
    lines = [b'{"id": %d, "question": "q", "answer": "a"}\n' % number for number in (1, 2, 3, 1)]
    assert _scan(tmp_path, b"".join(lines), max_samples=3).samples == 3
    with pytest.raises(DatasetBroken, match="line 4: duplicate id '1', first used on line 1"):
        _scan(tmp_path, b"".join(lines), max_samples=None)


def test_a_line_without_end_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "set.jsonl").open("wb") as file:
        file.write(LINE)
        file.truncate(64 * MAX_LINE_BYTES)
    with pytest.raises(DatasetBroken, match="line 2: longer than"):
        scan_dataset(tmp_path / "set.jsonl", tmp_path, 1000)


def test_samples_are_read_lazily(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(LINE * 2 + b"not JSON\n")
    with open_dataset(path) as stream:
        samples = read_samples(stream, "set.jsonl", 10)
        assert [next(samples).id, next(samples).id] == ["1", "2"]
        with pytest.raises(DatasetBroken):
            next(samples)


def test_a_file_that_cannot_be_opened_is_broken(tmp_path: Path) -> None:
    with pytest.raises(DatasetBroken, match="cannot be read"):
        open_dataset(tmp_path)


def test_gzip_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    packed = gzip.compress(LINE * 3)
    (tmp_path / "set.jsonl.gz").write_bytes(packed)
    path = resolve_dataset("set", tmp_path)
    facts = scan_dataset(path, tmp_path, 1000)
    assert (facts.name, facts.samples, facts.size_bytes) == ("set.jsonl.gz", 3, len(packed))
    assert facts.digest == f"sha256:{hashlib.sha256(packed).hexdigest()}"


@pytest.mark.parametrize("broken", [slice(None, -9), slice(None, 12)])
def test_torn_gzip_is_broken(tmp_path: Path, broken: slice) -> None:
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress(os.urandom(50).hex().encode() + LINE * 300)[broken])
    with pytest.raises(DatasetBroken):
        scan_dataset(tmp_path / "set.jsonl.gz", tmp_path, None)


def test_a_packed_line_without_end_is_not_read_whole(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "bomb.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(256):
            file.write(b"\0" * 1024**2)
    with pytest.raises(DatasetBroken, match="line 1: longer than"):
        scan_dataset(tmp_path / "bomb.jsonl.gz", tmp_path, None)
