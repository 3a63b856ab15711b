"""Counters whose memory does not grow with what they count, and which can be added up."""

from collections import Counter
from typing import Any, Final

import numpy as np

from datagen.ngrams import Hashes

KEPT: Final = 16_384
_TOGETHER: Final = 65_536
_WHOLE: Final = 2.0**64
_LONGEST: Final = 32_000
_HISTOGRAM_BITS: Final = 16


class DistinctCount:
    """How many different hashes were added: exact up to KEPT, then with a standard error of 0.8 %.

    The KEPT smallest ones are remembered (Bar-Yossef et al. 2002; the error is 1 / sqrt(KEPT - 2)).
    """

    def __init__(self) -> None:
        self._smallest: Hashes = np.empty(0, dtype=np.uint64)
        self._waiting: list[Hashes] = []
        self._waiting_count = 0

    def add(self, hashes: Hashes) -> None:
        """They have to be spread evenly over 64 bits."""
        self._waiting.append(hashes)
        self._waiting_count += len(hashes)
        if self._waiting_count > _TOGETHER:
            self._settle()

    def merge(self, other: "DistinctCount") -> None:
        other._settle()
        self.add(other._smallest)

    @property
    def is_exact(self) -> bool:
        self._settle()
        return len(self._smallest) < KEPT

    @property
    def count(self) -> int:
        if self.is_exact:
            return len(self._smallest)
        return round((KEPT - 1) * _WHOLE / (float(self._smallest[-1]) + 1.0))

    def _settle(self) -> None:
        if self._waiting:
            self._smallest = np.unique(np.concatenate([self._smallest, *self._waiting]))[:KEPT]
            self._waiting, self._waiting_count = [], 0


class Lengths:
    """Lengths in characters; one of more than 32,000 counts as that."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, length: int) -> None:
        self._counts[min(length, _LONGEST)] += 1

    def merge(self, other: "Lengths") -> None:
        self._counts.update(other._counts)

    def shown(self) -> dict[str, Any]:
        """`histogram`: by the upper end of each class, the powers of two; empty ones are left out."""
        total = self._counts.total()
        if not total:
            return {}
        ordered = sorted(self._counts.items())
        classes: Counter[int] = Counter()
        for length, count in ordered:
            classes[min(length.bit_length(), _HISTOGRAM_BITS)] += count
        return {
            "mean": round(sum(length * count for length, count in ordered) / total, 2),
            "min": ordered[0][0],
            **{f"p{share}": _quantile(ordered, total * share / 100) for share in (5, 50, 95)},
            "max": ordered[-1][0],
            "histogram": {f"<{1 << bits}": count for bits, count in sorted(classes.items())},
        }


class Commonest:
    """What stands most often. Exact while there are at most `2 * most` different ones; beyond that the rarest are
    forgotten now and then, and a count is a lower bound (`is_exact`)."""

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()
        self.is_exact = True

    def add(self, value: str, count: int = 1) -> None:
        self._counts[value] += count
        if len(self._counts) > 2 * self._most:
            self._counts = Counter(dict(self._counts.most_common(self._most)))
            self.is_exact = False

    def merge(self, other: "Commonest") -> None:
        self.is_exact = self.is_exact and other.is_exact
        for value, count in other._counts.items():
            self.add(value, count)

    def top(self, count: int) -> list[tuple[str, int]]:
        return self._counts.most_common(count)


def _quantile(ordered: list[tuple[int, int]], rank: float) -> int:
    seen = 0
    for length, count in ordered:
        seen += count
        if seen >= rank:
            return length
    return ordered[-1][0]
