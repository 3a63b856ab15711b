"""What is checked of pushed tensors before anything is done with them, and the numbers of versions."""

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import BadWeights, InvalidField
from gateway.serving.weights.check import Expected, check, checked_files, expected_of
from gateway.serving.weights.versions import Demand, Versions, demand_of
from tests.unit.control.checkpoint_files import weights, write_checkpoint


def segment(tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


A, B = ("F32", [2, 2], floats(1, 2, 3, 4)), ("F32", [3], floats(5, 6, 7))


@pytest.fixture
def expected(tmp_path: Path) -> Expected:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(segment({"a": A, "b": B}))
    (folder / "config.json").write_text("{}")
    return expected_of(folder, None)


def faults(tmp_path: Path, expected: Expected, content: bytes) -> list[str]:
    file = tmp_path / "body"
    file.write_bytes(content)
    with pytest.raises(BadWeights) as caught:
        check(file, expected)
    return caught.value.faults


def test_one_file_or_several_in_any_order(tmp_path: Path, expected: Expected) -> None:
    file = tmp_path / "body"
    file.write_bytes(segment({"a": A, "b": B}, {"probe": "1"}))
    whole = check(file, expected)
    assert (whole.bytes, whole.metadata) == (28, {"probe": "1"})
    file.write_bytes(segment({"b": B}) + segment({"a": A}) + segment({}, {"probe": "2"}))
    pieces = check(file, expected)
    assert (pieces.shas, pieces.metadata) == (whole.shas, {"probe": "2"})
    assert expected.digest(pieces) == expected.digest(whole)
    assert whole.changed(pieces) == 0


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (segment({"a": A}), "b is missing"),
        (segment({"a": A, "b": B}) + segment({"b": B}), "b is there 2 times"),
        (segment({"a": A, "b": B, "c": B}), "c is not a tensor of the model"),
        (segment({"a": ("F32", [4], A[2]), "b": B}), "a has the shape [4], not [2, 2]"),
        (segment({"a": A, "b": ("BF16", [3], b"\0" * 6)}), "b is BF16, not F32"),
        (segment({"a": A, "b": ("F32", [3], floats(1, float("nan"), 2))}), "b holds numbers that are not finite"),
        (segment({"a": A, "b": ("F32", [3], floats(1, float("-inf"), 2))}), "b holds numbers that are not finite"),
        (segment({"a": A, "b": B})[:-1], "the body is torn"),
        (segment({"a": A, "b": B}) + b"\0", "the body is torn"),
        (segment({}) * 200_000 + segment({"a": A, "b": B}), "the body has headers that are longer"),
        (segment({"a": A, "b": B}, {"note": "x" * 2_000_000}), "the body has headers that are longer"),
        (b"", "the body is torn"),
        (b"no safetensors at all", "the body is not a safetensors file"),
    ],
)  # fmt: skip
def test_what_is_not_the_models_is_named(tmp_path: Path, expected: Expected, content: bytes, fault: str) -> None:
    assert any(each.startswith(fault) for each in faults(tmp_path, expected, content))


def test_a_name_twice_in_one_header(tmp_path: Path, expected: Expected) -> None:
    text = (
        b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    )
    content = struct.pack("<Q", len(text)) + text
    assert faults(tmp_path, expected, content) == ["the body: a is there twice"]


def test_every_fault_is_in_the_message(tmp_path: Path, expected: Expected) -> None:
    file = tmp_path / "body"
    file.write_bytes(segment({"c": A}))
    with pytest.raises(BadWeights, match=r"a is missing; b is missing; c is not a tensor of the model\. Nothing was"):
        check(file, expected)


def test_a_checkpoint_in_shards_has_one_digest(tmp_path: Path) -> None:
    whole, cut = write_checkpoint(tmp_path / "whole", seed=1), write_checkpoint(tmp_path / "cut", seed=1, shards=2)
    (cut / "stray.safetensors").write_bytes(segment({"a": A}))  # the index does not name it
    digests = {expected_of(folder, None).digest(checked_files(folder)) for folder in (whole, cut)}
    assert len(digests) == 1
    assert set(expected_of(cut, None).tensors) == set(weights(1))
    assert expected_of(whole, "a template").digest(checked_files(whole)) not in digests


def test_numbers_only_grow_over_restarts_too(tmp_path: Path) -> None:
    file = tmp_path / "versions.json"

    async def run() -> list[int]:
        first = Versions(file)
        numbers = [await first.next("a"), await first.next("a"), await first.next("b")]
        return [*numbers, await Versions(file).next("a")]

    assert asyncio.run(run()) == [1, 2, 1, 3]
    file.write_text("[1")
    assert asyncio.run(Versions(file).next("a")) == 1


def test_what_a_request_demands() -> None:
    assert demand_of([(b"accept", b"*/*")]) is None
    at_least, exactly = demand_of([(b"x-min-model-version", b"3")]), demand_of([(b"x-model-version", b"3")])
    assert at_least == Demand(3, exact=False)
    assert exactly == Demand(3, exact=True)
    assert [at_least.is_met(n) for n in (2, 3, 4)] == [False, True, True]
    assert [exactly.is_met(n) for n in (2, 3, 4)] == [False, True, False]
    assert [exactly.is_past(n) for n in (2, 3, 4)] == [False, False, True]
    for value in (b"-1", b"x", b"", b"9" * 30):
        with pytest.raises(InvalidField, match="x-min-model-version"):
            demand_of([(b"x-min-model-version", value)])
    with pytest.raises(InvalidField, match="excludes"):
        demand_of([(b"x-min-model-version", b"3"), (b"x-model-version", b"3")])
