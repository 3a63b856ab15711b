"""What a delta makes of weights in memory, and what no delta may make of them."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from gateway.engine.weights.tensors import tensors_in
from gateway.errors import BadWeights
from gateway.serving.weights.check import Expected, check, expected_of
from gateway.serving.weights.delta import assembled
from gateway.serving.weights.staged import StagedWeights
from stepserve.delta import METADATA_KEY, as_bytes, change_of
from tests.unit.gateway.serving.test_weights import floats, segment

OLD = {"a": floats(1, 2, 3, 4), "b": floats(5, 6, 7)}
NEW = {"a": floats(1, 2, 9, 4), "b": floats(5, 6, 7)}
SHAPES = {"a": [2, 2], "b": [3]}


@pytest.fixture
def expected(tmp_path: Path) -> Expected:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(whole(OLD))
    (folder / "config.json").write_text("{}")
    return expected_of(folder, None)


@pytest.fixture
def base(expected: Expected) -> StagedWeights:
    """As it came: each tensor in a file of its own, with a probe."""
    weights = StagedWeights()
    pieces = [segment({name: ("F32", SHAPES[name], OLD[name])}) for name in ("b", "a")]
    weights.path.write_bytes(b"".join(pieces) + segment({}, {"probe": "old"}))
    weights.checked = check(weights.path, expected)
    return weights


def whole(tensors: dict[str, bytes]) -> bytes:
    return segment({name: ("F32", SHAPES[name], data) for name, data in tensors.items()})


def row(name: str, data: bytes, dtype: str = "F32", shape: list[int] | None = None) -> list[Any]:
    return [name, dtype, shape or SHAPES[name], hashlib.sha256(data).hexdigest()]


def rows(tensors: dict[str, bytes]) -> list[list[Any]]:
    return [row(name, data) for name, data in tensors.items()]


def tail(said: Any, **more: str) -> bytes:
    return segment({}, {METADATA_KEY: json.dumps(said)} | more)


def change(name: str, before: bytes, after: bytes, dtype: str = "U8") -> bytes:
    content = b"".join(change_of(as_bytes(before), as_bytes(after), 4))
    return segment({name: (dtype, [len(content)], content)})


A = change("a", OLD["a"], NEW["a"])


def made(tmp_path: Path, base: StagedWeights, expected: Expected, content: bytes) -> StagedWeights:
    file = tmp_path / "body"
    file.write_bytes(content)
    return assembled(file, base, expected)


def test_a_delta_makes_what_a_push_of_everything_does(tmp_path: Path, expected: Expected, base: StagedWeights) -> None:
    before = base.path.read_bytes()
    weights = made(tmp_path, base, expected, A + tail(rows(NEW), probe="new"))
    again = check(weights.path, expected)
    pushed = tmp_path / "whole"
    pushed.write_bytes(whole(NEW))
    assert weights.checked is not None
    assert again.shas == check(pushed, expected).shas == weights.checked.shas
    assert expected.digest(weights.checked) == expected.digest(again)
    assert (weights.checked.metadata["probe"], "probe" in again.metadata) == ("new", False)
    assert {each.name: (each.begin, each.end) for each in weights.checked.tensors} == {
        each.name: (each.begin, each.end) for each in again.tensors
    }
    assert base.path.read_bytes() == before
    further = assembled(_file(tmp_path, change("a", NEW["a"], OLD["a"]) + tail(rows(OLD))), weights, expected)
    assert check(further.path, expected).shas == base.checked.shas  # type: ignore[union-attr]  # it was checked


def _file(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "further"
    file.write_bytes(content)
    return file


def test_a_worker_reads_the_tensors_of_the_push_out_of_it(
    tmp_path: Path, expected: Expected, base: StagedWeights
) -> None:
    weights = made(tmp_path, base, expected, A + tail(rows(NEW)))
    read = {name: (tensor.shape, tensor.flatten().tolist()) for name, tensor in tensors_in(weights.path)}
    assert read == {"b": ((3,), [5.0, 6.0, 7.0]), "a": ((2, 2), [1.0, 2.0, 9.0, 4.0])}


def test_nothing_changed(tmp_path: Path, expected: Expected, base: StagedWeights) -> None:
    weights = made(tmp_path, base, expected, tail(rows(OLD)))
    assert check(weights.path, expected).shas == base.checked.shas  # type: ignore[union-attr]  # it was checked


NAN = floats(1, 2, float("nan"), 4)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (A + tail([row("a", NEW["a"])]), "b is missing"),
        (A + tail([*rows(NEW), row("b", NEW["b"])]), "b is there 2 times"),
        (A + tail([*rows(NEW), row("c", b"", shape=[1])]), "c is not a tensor of the model"),
        (A + tail([row("a", NEW["a"], shape=[4]), row("b", NEW["b"])]), "a has the shape [4], not [2, 2]"),
        (A + tail([row("a", NEW["a"], "BF16"), row("b", NEW["b"])]), "a is BF16, not F32"),
        (A + A + tail(rows(NEW)), "a changes 2 times"),
        (change("c", OLD["a"], NEW["a"]) + tail(rows(NEW)), "c changes, and is not a tensor of the model"),
        (change("a", OLD["a"], NEW["a"], "I8") + tail(rows(NEW)), "the change of a is I8, not U8"),
        (tail(rows(NEW)), "a would not be what its checksum says"),
        (A + tail(rows(OLD)), "a would not be what its checksum says"),
        (A + change("b", OLD["b"], floats(5, 6, 8)) + tail(rows(NEW)), "b would not be what its checksum says"),
        (change("a", NEW["a"], OLD["a"]) + tail(rows(NEW)), "a would not be what its checksum says"),
        (change("b", OLD["a"], NEW["a"]) + tail(rows(NEW)), "b would not be what its checksum says"),
        (change("b", OLD["a"], floats(1, 2, 3, 9)) + tail(rows(NEW)), "the change of b changes elements that the"),
        (
            change("a", OLD["a"], NAN) + tail(rows(NEW | {"a": NAN})),
            "a holds numbers that are not finite (NaN or infinite)",
        ),
        (A[:-1] + b"\xff" + tail(rows(NEW)), "a would not be what its checksum says"),
        (A, "the body has no stepserve.delta in its __metadata__: this is not a delta, or not all of one"),
        (A + tail(rows(NEW))[:-1], "the body is torn"),
        (A + tail({"a": 1}), "stepserve.delta is not a list of [name, dtype, shape, sha256]"),
        (A + tail([["a", "F32", [-1, -4], "x"], row("b", NEW["b"])]), "a has the shape [-1, -4], not [2, 2]"),
        (whole(NEW), "the body has no stepserve.delta"),
        (b"", "the body is torn"),
        (struct.pack("<Q", 1 << 60) + bytes(64), "the body is not a safetensors file"),
    ],
    ids=range(23),
)
def test_what_is_refused_changes_nothing(
    tmp_path: Path, expected: Expected, base: StagedWeights, content: bytes, fault: str
) -> None:
    before = base.path.read_bytes()
    with pytest.raises(BadWeights) as caught:
        made(tmp_path, base, expected, content)
    assert any(each.startswith(fault) for each in caught.value.faults), caught.value.faults
    assert base.path.read_bytes() == before


def test_a_byte_that_arrives_otherwise_is_never_served(tmp_path: Path, expected: Expected, base: StagedWeights) -> None:
    body = A + tail(rows(NEW))
    shas = check(_file(tmp_path, whole(NEW)), expected).shas
    for position in range(len(body)):
        wrong = bytearray(body)
        wrong[position] ^= 1 << (position % 8)
        try:
            weights = made(tmp_path, base, expected, bytes(wrong))
        except BadWeights:
            continue
        assert check(weights.path, expected).shas == shas, position
