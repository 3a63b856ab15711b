"""The book of a file that arrives in pieces."""

import pytest

from control.errors import Conflict, Invalid
from control.registration.uploads.staged_file import StagedFile, chunks_of


def staged() -> StagedFile:
    """Three chunks: [0, 10), [10, 30), [30, 35)."""
    return StagedFile("w", 35, chunks_of([(10, "a"), (20, "b"), (5, "c")]))


def arrived(file: StagedFile, begin: int, end: int, written_bytes: int) -> list[int]:
    """The chunks that are full then; the reservation is over."""
    full = file.arrived(begin, end, written_bytes)
    file.release(begin, end)
    return full


def test_bytes_that_are_not_proven_yet_are_still_their_writers() -> None:
    file = staged()
    file.reserve(0, 10)
    assert file.arrived(0, 10, 10) == [0]
    with pytest.raises(Conflict, match="under way"):
        file.reserve(0, 10)
    file.settle(0, good=True)
    file.release(0, 10)
    assert file.reserved == []


def test_whole_chunks_in_any_order() -> None:
    file = staged()
    file.reserve(10, 35)
    assert arrived(file, 10, 35, 25) == [1, 2]
    for index in (1, 2):
        file.settle(index, good=True)
    assert (file.missing(), file.received_bytes, file.complete) == ([(0, 10)], 25, False)
    file.reserve(0, 10)
    for index in arrived(file, 0, 10, 10):
        file.settle(index, good=True)
    assert file.complete
    assert file.missing() == []


def test_a_piece_that_broke_off_goes_on_where_it_broke() -> None:
    file = staged()
    file.reserve(0, 35)
    assert arrived(file, 0, 35, 17) == [0]
    file.settle(0, good=True)
    assert file.missing() == [(17, 35)]
    file.reserve(17, 35)
    assert arrived(file, 17, 35, 18) == [1, 2]


def test_wrong_bytes_are_wanted_again_whole() -> None:
    file = staged()
    file.reserve(0, 17)
    file.settle(arrived(file, 0, 17, 17)[0], good=False)
    assert file.missing() == [(0, 10), (17, 35)]


@pytest.mark.parametrize(
    ("begin", "end", "named"),
    [
        (0, 10, "an overlap, its bytes up to 10 "),
        (12, 30, "an overlap, its bytes up to 17 "),
        (20, 30, "a gap, this begins at byte 20 and the next one wanted is 17"),
        (31, 35, "a gap, this begins at byte 31 and the next one wanted is 30"),
    ],
)
def test_gaps_and_overlaps_are_named(begin: int, end: int, named: str) -> None:
    file = staged()
    file.reserve(0, 17)
    file.settle(arrived(file, 0, 17, 17)[0], good=True)
    with pytest.raises(Conflict, match=named):
        file.reserve(begin, end)


def test_bytes_beyond_the_end() -> None:
    with pytest.raises(Invalid, match="35 bytes"):
        staged().reserve(30, 36)


def test_two_requests_never_share_bytes() -> None:
    file = staged()
    file.reserve(0, 30)
    with pytest.raises(Conflict, match="under way"):
        file.reserve(10, 35)
    file.reserve(30, 35)
    file.release(0, 30)
    file.reserve(0, 30)
