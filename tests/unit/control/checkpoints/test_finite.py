"""A tensor with one number that is not finite is refused by its name, whichever way its file came."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from control.checkpoints.checkpoint import inspect
from control.checkpoints.digest_cache import DigestCache, stamp
from control.errors import Invalid
from stepserve.finite import is_finite
from tests.unit.control.checkpoint_files import write_checkpoint


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("dtype", "kind"), [("F16", "<f2"), ("F32", "<f4"), ("F64", "<f8")])
def test_one_bad_number_among_many(dtype: str, kind: str, bad: float) -> None:
    numbers = np.zeros(1000, dtype=kind)
    numbers[:3] = np.finfo(kind).max, np.finfo(kind).min, np.finfo(kind).tiny
    assert is_finite(numbers.tobytes(), dtype)
    numbers[999] = bad
    assert not is_finite(numbers.tobytes(), dtype)


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    largest, infinite, nan = 0x7F7F, 0x7F80, 0xFFC1
    assert is_finite(struct.pack("<2H", largest, 0), "BF16")
    assert not is_finite(struct.pack("<2H", 0, infinite), "BF16")
    assert not is_finite(struct.pack("<2H", nan, 0), "BF16")


def test_what_has_no_nan_is_finite() -> None:
    for dtype in ("U8", "I64", "BOOL", "F8_E4M3"):
        assert is_finite(b"\xff" * 64, dtype)
    assert is_finite(b"", "F32")


def _with_nan(folder: Path) -> Path:
    write_checkpoint(folder)
    header = {"good": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    header["bad.weight"] = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}
    text = json.dumps(header).encode()
    numbers = struct.pack("<4f", 1.0, 2.0, 3.0, float("nan"))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + numbers)
    return folder


def test_registration_names_the_tensor(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"model\.safetensors: bad\.weight holds numbers that are not finite"):
        inspect(_with_nan(tmp_path / "m"), DigestCache())


def test_hashes_from_elsewhere_spare_no_look(tmp_path: Path) -> None:
    """Those of an upload are known before anybody looked at its numbers."""
    folder = _with_nan(tmp_path / "m")
    cache = DigestCache()
    file = folder / "model.safetensors"
    cache.put(file, stamp(file), {"good": "1", "bad.weight": "2"})
    with pytest.raises(Invalid, match=r"bad\.weight"):
        inspect(folder, cache)


def test_what_was_looked_at_is_not_read_again_after_a_restart(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    cache = DigestCache(tmp_path / "cache.json")
    digest = inspect(folder, cache).digest
    file = folder / "model.safetensors"
    assert DigestCache(tmp_path / "cache.json").is_finite(file, stamp(file))
    assert inspect(folder, DigestCache(tmp_path / "cache.json")).digest == digest
