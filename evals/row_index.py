"""Which rows a dataset has, in 16 bytes each, and how two of its versions differ. A row is a JSON object on a line.

A row is known by its id, where it has one, else by all that is in it: such a row can be added or removed, not changed.
The order of lines and of keys says nothing.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from stepserve.durable import written_aside

MOST_ROWS = 2_000_000
"""Of larger files rows are counted alone: their index would not fit in the memory that control may take."""
_ID_KEYS = ("id", "task_id", "unique_id")

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Changes:
    added: int
    removed: int
    changed: int


@dataclass(frozen=True, slots=True)
class RowIndex:
    """[n] sorted hashes of what rows are known by, and [n] of all that is in them."""

    keys: Hashes
    contents: Hashes

    @classmethod
    def of(cls, lines: Iterable[bytes]) -> "RowIndex | int":
        """The number of rows alone, where there are more than MOST_ROWS. Raises ValueError for what is not JSON."""
        keys, contents = array("Q"), array("Q")
        count = 0
        for line in lines:
            count += 1
            if count > MOST_ROWS:
                keys, contents = array("Q"), array("Q")
                continue
            key, content = _hashes(line)
            keys.append(key)
            contents.append(content)
        if count > MOST_ROWS:
            return count
        known, whole = np.array(keys, dtype=np.uint64), np.array(contents, dtype=np.uint64)
        order = np.lexsort((whole, known))
        return cls(known[order], whole[order])

    @classmethod
    def read(cls, path: Path) -> "RowIndex":
        """Raises OSError, ValueError."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(arrays["keys"], arrays["contents"])
        except (BadZipFile, EOFError, KeyError) as error:  # torn: it is not written durably
            raise ValueError(f"{path.name} is not what was written: {error}") from error

    def write(self, path: Path) -> None:
        """Raises OSError."""
        with written_aside(path, durable=False) as aside, aside.open("wb") as file:
            np.savez(file, keys=self.keys, contents=self.contents)

    def __len__(self) -> int:
        return len(self.keys)

    def since(self, before: "RowIndex") -> Changes:
        """From `before` to this one. Of rows that are there several times, each counts."""
        old, new = _counted(before.keys), _counted(self.keys)
        keys = np.union1d(old[0], new[0])
        difference = _counts_of(keys, new) - _counts_of(keys, old)
        added, removed = int(difference[difference > 0].sum()), int(-difference[difference < 0].sum())
        # The same key as often in both: its contents may be others.
        kept = keys[(difference == 0)]
        mine, theirs = np.isin(self.keys, kept), np.isin(before.keys, kept)
        changed = int(np.count_nonzero(self.contents[mine] != before.contents[theirs]))
        return Changes(added, removed, changed)


def _hashes(line: bytes) -> tuple[int, int]:
    row = json.loads(line)
    content = _hash(json.dumps(row, sort_keys=True))
    named = row if isinstance(row, dict) else {}
    name = next((named[key] for key in _ID_KEYS if isinstance(named.get(key), str | int)), None)
    return (content if name is None else _hash(f"id {name!r}")), content


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def _counted(keys: Hashes) -> tuple[Hashes, npt.NDArray[np.int64]]:
    unique, counts = np.unique(keys, return_counts=True)
    return unique, counts.astype(np.int64)


def _counts_of(keys: Hashes, counted: tuple[Hashes, npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    found = np.zeros(len(keys), dtype=np.int64)
    found[np.searchsorted(keys, counted[0])] = counted[1]
    return found
