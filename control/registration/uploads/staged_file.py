"""The book of one file that arrives in pieces: which bytes are there and proven. Touches no disk."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from control.errors import Conflict, Invalid


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes [begin, end) of the file. `sha256` None: nobody has said what they must be."""

    begin: int
    end: int
    sha256: str | None


def chunks_of(sizes_and_shas: Iterable[tuple[int, str | None]]) -> list[Chunk]:
    chunks, position = [], 0
    for size_bytes, sha256 in sizes_and_shas:
        chunks.append(Chunk(position, position + size_bytes, sha256))
        position += size_bytes
    return chunks


@dataclass(slots=True)
class StagedFile:
    """`whole` are the chunks that are there and match their hash; `prefixes` how much there is of begun ones."""

    name: str
    size_bytes: int
    chunks: list[Chunk]
    whole: set[int] = field(default_factory=set)
    prefixes: dict[int, int] = field(default_factory=dict)
    reserved: list[tuple[int, int]] = field(default_factory=list)
    doubtful: bool = False
    _begins: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._begins = [chunk.begin for chunk in self.chunks]

    @property
    def complete(self) -> bool:
        return len(self.whole) == len(self.chunks)

    @property
    def received_bytes(self) -> int:
        there = sum(self.chunks[index].end - self.chunks[index].begin for index in self.whole)
        return there + sum(self.prefixes.values())

    def missing(self) -> list[tuple[int, int]]:
        """The ranges to be sent, neighbours merged; one that was broken off begins where it broke."""
        ranges: list[tuple[int, int]] = []
        for index, chunk in enumerate(self.chunks):
            if index in self.whole:
                continue
            begin = chunk.begin + self.prefixes.get(index, 0)
            if ranges and ranges[-1][1] == begin:
                ranges[-1] = (ranges[-1][0], chunk.end)
            else:
                ranges.append((begin, chunk.end))
        return ranges

    def reserve(self, begin: int, end: int) -> None:
        """Takes [begin, end) for one request. Raises Conflict for a gap, an overlap, or bytes under way already."""
        if not 0 <= begin < end <= self.size_bytes:
            raise Invalid(f"{self.name} has {self.size_bytes} bytes: there are no bytes {begin} to {end} of it")
        for other_begin, other_end in self.reserved:
            if begin < other_end and other_begin < end:
                raise Conflict(f"{self.name}: bytes {begin} to {end} are under way in another request")
        first = bisect_right(self._begins, begin) - 1
        for index in self._touched(begin, end):
            chunk = self.chunks[index]
            expected = chunk.begin + self.prefixes.get(index, 0)
            if index in self.whole or (begin < expected and index == first):
                there = chunk.end if index in self.whole else expected
                raise Conflict(f"{self.name}: an overlap, its bytes up to {there} are here already")
            if index == first and begin > expected:
                raise Conflict(f"{self.name}: a gap, this begins at byte {begin} and the next one wanted is {expected}")
        for index in self._touched(begin, end):
            if index != first:
                self.prefixes.pop(index, None)
        self.reserved.append((begin, end))

    def release(self, begin: int, end: int) -> None:
        """Ends a reservation. A writer keeps it until what `arrived` is proven: then others may replace the file."""
        if (begin, end) in self.reserved:
            self.reserved.remove((begin, end))

    def arrived(self, begin: int, end: int, written_bytes: int) -> list[int]:
        """Of a reservation so much was written; the chunks that are full now, to be proven."""
        stop = begin + min(written_bytes, end - begin)
        full = []
        for index in self._touched(begin, stop) if stop > begin else []:
            chunk = self.chunks[index]
            if stop >= chunk.end:
                full.append(index)
            else:
                self.prefixes[index] = stop - chunk.begin
        return full

    def settle(self, index: int, *, good: bool) -> None:
        """The chunk matched its hash, or its bytes are forgotten."""
        self.prefixes.pop(index, None)
        if good:
            self.whole.add(index)

    def _touched(self, begin: int, end: int) -> range:
        first = bisect_right(self._begins, begin) - 1
        last = bisect_right(self._begins, end - 1) - 1
        return range(first, last + 1)
