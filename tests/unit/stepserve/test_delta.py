"""What changed in a tensor, as bytes and back."""

import math
import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stepserve.delta import BLOCK_ELEMENTS, Array, BadChange, apply_change, as_bytes, change_of

WIDTHS = (1, 2, 4, 8)


def pair(seed: int, elements: int, width: int, share: float) -> tuple[Array, Array]:
    """Bytes of a tensor, and of another in which about that share of its elements has other bits."""
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 256, elements * width, dtype=np.uint8)
    after = before.copy().reshape(elements, width)
    chosen = rng.random(elements) < share
    after[chosen] = rng.integers(0, 256, (int(chosen.sum()), width), dtype=np.uint8)
    return before, after.reshape(-1)


def change(before: Array, after: Array, width: int) -> bytes:
    return b"".join(change_of(before, after, width))


@given(seed=st.integers(0, 2**32), elements=st.integers(0, 3000), width=st.sampled_from(WIDTHS), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_what_a_change_makes_is_the_same_bit_for_bit(seed: int, elements: int, width: int, share: float) -> None:
    before, after = pair(seed, elements, width, share)
    made = before.copy()
    count = apply_change(memoryview(change(before, after, width)), made, width)
    assert made.tobytes() == after.tobytes()
    assert count == int((before.reshape(-1, width) != after.reshape(-1, width)).any(axis=1).sum())


def test_nan_of_other_bits_and_minus_zero_are_changes() -> None:
    before = as_bytes(struct.pack("<4f", math.nan, 0.0, 1.0, math.inf))
    after = as_bytes(struct.pack("<I3f", 0x7FC00001, -0.0, 1.0, math.inf))
    made = before.copy()
    assert apply_change(memoryview(change(before, after, 4)), made, 4) == 2
    assert made.tobytes() == after.tobytes()


@pytest.mark.parametrize("where", [0, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, 2 * BLOCK_ELEMENTS + 6])
def test_blocks_meet_without_a_gap(where: int) -> None:
    before = np.zeros(2 * BLOCK_ELEMENTS + 7, np.uint8)
    after = before.copy()
    after[where] = 1
    made = before.copy()
    assert apply_change(memoryview(change(before, after, 1)), made, 1) == 1
    assert made[where] == 1


@pytest.mark.parametrize(("width", "share"), [(2, 0.001), (2, 0.05), (4, 0.05), (2, 1.0)])
def test_a_change_is_hardly_longer_than_what_it_carries(width: int, share: float) -> None:
    """Bits that nobody can foresee, the worst case: what says which elements changed, and their new values."""
    elements = 1_000_000
    before, after = pair(1, elements, width, share)
    count = int((before.reshape(-1, width) != after.reshape(-1, width)).any(axis=1).sum())
    which_bits = (math.lgamma(elements + 1) - math.lgamma(count + 1) - math.lgamma(elements - count + 1)) / math.log(2)
    assert len(change(before, after, width)) <= 1.2 * (which_bits / 8 + count * width)


def block(count: int, content: bytes) -> bytes:
    frame = zstandard.ZstdCompressor().compress(content)
    return struct.pack("<II", count, len(frame)) + frame


def bomb() -> bytes:
    """Some hundred bytes that say that they are three, and hold 50 MB."""
    writer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    frame = writer.compress(bytes(50_000_000)) + writer.flush()
    return struct.pack("<II", 1, len(frame)) + frame


GOOD = block(1, bytes((2, 0, 0, 2)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "ends too early"),
        (GOOD[:-1], "ends too early"),
        (GOOD + b"\0", "is longer than its tensor needs"),
        (block(1, bytes((4, 0, 0, 2))), "changes elements that the tensor does not have"),
        (block(2, bytes((0, 0xFF, 0, 0xFF, 0, 0xFF, 2, 2))), "changes elements that the tensor does not have"),
        (block(5, bytes(20)), "says that 5 of 4 elements changed"),
        (struct.pack("<II", 0, 3) + b"abc", "says that 0 of 4 elements changed, in 3 bytes"),
        (block(1, bytes(5)), "has a frame of 5 bytes where there must be 4"),
        (block(1, bytes(50_000_000)), "has a frame of 50000000 bytes where there must be 4"),
        (bomb(), "has a frame of -1 bytes where there must be 4"),
        (struct.pack("<II", 1, 5) + b"hello", "has a frame that is not zstd"),
        (struct.pack("<II", 1, len(GOOD) - 9) + GOOD[8:-1], "has a frame that is not zstd"),
    ],
    ids=range(12),
)
def test_what_is_no_change_of_the_tensor_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(BadChange, match=words):
        apply_change(memoryview(content), np.zeros(4, np.uint8), 1)


def test_a_good_one_is_applied() -> None:
    made = np.zeros(4, np.uint8)
    assert apply_change(memoryview(GOOD), made, 1) == 1
    assert made.tolist() == [0, 0, 1, 0]
