"""Questions that were asked before, found again among a hundred thousand in about a millisecond.

Two questions are as similar as their ROUGE-L (F1 over words, Lin 2004). MinHash signatures in bands (Broder 1997;
Leskovec et al., Mining of Massive Datasets, chapter 3) find the few worth measuring. ROUGE-L of 0.7 needs a Jaccard
similarity of the words of at least 0.35 / 0.65 = 0.54; with 32 bands of 4, of the pairs at just that point 94 % are
found, of those at 0.6 99 %, of those at 0.7 all but 2 in 10,000.

The index is a SQLite file, so that memory does not grow with it. It can be made again from the examples, so nothing
waits for the disk.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import LCSseq

from datagen.tokens import as_letters, numbers, words

BANDS: Final = 32
ROWS: Final = 4
MOST_MEASURED: Final = 128
MOST_WORDS: Final = 20_000  # what a question is known by: measuring takes the square of it, and holds up all of Python

_SCHEMA = """
CREATE TABLE IF NOT EXISTS document (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, quantities INTEGER NOT NULL, letters TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS document_quantities ON document (quantities) WHERE quantities <> 0;
CREATE TABLE IF NOT EXISTS bucket (band INTEGER, document INTEGER, PRIMARY KEY (band, document)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS source (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_IN_A_BUCKET = "SELECT document FROM (SELECT document FROM bucket WHERE band = ? LIMIT 64)"
_IN_BUCKETS = " UNION ALL ".join([_IN_A_BUCKET] * BANDS)

_rng = np.random.default_rng(7_265_100)
_MULTIPLIERS: Final = _rng.integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS: Final = _rng.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64)
_MIXERS: Final = _rng.integers(1, 2**63, (BANDS, ROWS), dtype=np.uint64) * np.uint64(2) + np.uint64(1)


@dataclass(frozen=True, slots=True)
class Nearest:
    """`similarity` in [0, 1]; `id` is that of the document, empty when none is near."""

    similarity: float = 0.0
    id: str = ""


NOTHING_NEAR: Final = Nearest()


class Fingerprint:
    """What the index needs to know of a question; worked out once, for every index it is looked up in."""

    __slots__ = ("_bands", "letters", "quantities")

    def __init__(self, question: str) -> None:
        tokens = words(question)
        self.letters = as_letters(tokens[:MOST_WORDS])
        self.quantities = _hash(" ".join(numbers(tokens))) if numbers(tokens) else 0
        self._bands: list[int] | None = None

    @property
    def bands(self) -> list[int]:
        """One bucket a band: [BANDS]."""
        if self._bands is None:
            self._bands = _bands_of(self.letters)
        return self._bands


class SimilarityIndex:
    """One file, one user at a time. Every method blocks; raises sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=60)
        self._database.executescript("PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF; PRAGMA cache_size=-8000;")
        self._database.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def __len__(self) -> int:
        count: int = self._database.execute("SELECT count(*) FROM document").fetchone()[0]
        return count

    def nearest(self, question: Fingerprint, *, same_numbers: bool) -> Nearest:
        """The most similar document that the buckets show.

        `same_numbers`: a question with other numbers in it is another question, however alike the words are.
        """
        if not question.letters:
            return NOTHING_NEAR
        if same_numbers and question.quantities:
            found = self._database.execute(
                "SELECT id, letters FROM document WHERE quantities = ? AND quantities <> 0 LIMIT ?",
                (question.quantities, MOST_MEASURED),
            ).fetchall()
        else:
            found = self._in_buckets(question)
        return max(
            (Nearest(rouge_l(question.letters, letters), id_) for id_, letters in found),
            key=lambda near: near.similarity,
            default=NOTHING_NEAR,
        )

    def add(self, documents: Sequence[tuple[str, Fingerprint]]) -> None:
        """(id, question) each; an id that is there already is left as it is."""
        with self.at_once():
            for id_, question in documents:
                self._add(id_, question)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What is added within is written at its end, all of it or, after an error, nothing; `nearest` sees it at once.
        May be entered again within itself.
        """
        if self._database.in_transaction:
            yield
            return
        self._database.execute("BEGIN")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.OperationalError):  # a full disk has rolled it back already
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def knows(self, source: str) -> bool:
        """Whether `done_with` was called for it."""
        return self._database.execute("SELECT 1 FROM source WHERE key = ?", (source,)).fetchone() is not None

    def done_with(self, source: str) -> None:
        self._database.execute("INSERT OR IGNORE INTO source VALUES (?)", (source,))

    def _add(self, id_: str, question: Fingerprint) -> None:
        cursor = self._database.execute(
            "INSERT OR IGNORE INTO document (id, quantities, letters) VALUES (?, ?, ?)",
            (id_, question.quantities, question.letters),
        )
        if cursor.rowcount == 1 and question.letters:
            number = cursor.lastrowid
            self._database.executemany(
                "INSERT OR IGNORE INTO bucket VALUES (?, ?)", [(b, number) for b in question.bands]
            )

    def _in_buckets(self, question: Fingerprint) -> list[tuple[str, str]]:
        shared = Counter(number for (number,) in self._database.execute(_IN_BUCKETS, question.bands))
        numbers_ = [number for number, _ in shared.most_common(MOST_MEASURED)]
        marks = ",".join("?" * len(numbers_))
        return self._database.execute(
            f"SELECT id, letters FROM document WHERE number IN ({marks})",  # noqa: S608  # question marks alone
            numbers_,
        ).fetchall()


def rouge_l(left: str, right: str) -> float:
    """F1 of the longest common subsequence, of two texts of one letter a word."""
    if not left or not right:
        return 0.0
    return 2.0 * LCSseq.similarity(left, right) / (len(left) + len(right))


def _bands_of(letters: str) -> list[int]:
    """MinHash of the multiset of words: the second `the` is another element than the first."""
    seen: dict[str, int] = {}
    numbered = []
    for letter in letters:
        seen[letter] = count = seen.get(letter, -1) + 1
        numbered.append((ord(letter) << 20) + count)
    elements = np.array(numbered, dtype=np.uint64)
    elements *= np.uint64(0x9E3779B97F4A7C15)
    elements ^= elements >> np.uint64(29)
    hashes: npt.NDArray[np.uint64] = elements[:, None] * _MULTIPLIERS + _OFFSETS
    smallest = (hashes >> np.uint64(24)).min(axis=0).reshape(BANDS, ROWS)
    mixed = (smallest * _MIXERS).sum(axis=1, dtype=np.uint64)
    mixed ^= mixed >> np.uint64(31)
    folded: list[int] = (mixed * np.uint64(0xBF58476D1CE4E5B9)).view(np.int64).tolist()
    return folded


def _hash(text: str) -> int:
    """Not 0."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True) or 1
