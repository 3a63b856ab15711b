"""Which ids of a dataset come twice, found in 8 bytes an id: a dataset may have millions."""

import heapq
from array import array
from itertools import islice, pairwise

_RUN = 65_536
_MOST_REPEATED = 1_000


class SampleIds:
    """Keeps a number made from each id, in sorted runs."""

    def __init__(self) -> None:
        self._runs: list[array[int]] = []
        self._open = array("q")

    def add(self, sample_id: str) -> None:
        self._open.append(hash(sample_id))
        if len(self._open) == _RUN:
            self._close()

    def repeated(self) -> frozenset[int]:
        """`hash` of ids that were added more than once, up to 1,000 of them; very rarely of two different ids."""
        self._close()
        same = (earlier for earlier, later in pairwise(heapq.merge(*self._runs)) if earlier == later)
        return frozenset(islice(same, _MOST_REPEATED))

    def _close(self) -> None:
        self._runs.append(array("q", sorted(self._open)))
        self._open = array("q")
