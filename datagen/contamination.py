"""How much of an eval set is in training data: which questions, and where. Blocks; sources are read line by line.

A question is given away by a text that shares a run of words with it (datagen.decontamination says which counts), or,
with the same numbers, is nearly the same text (ROUGE-L, datagen.similarity). Memory goes with the eval set alone.
"""

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.decontamination import (
    DEFAULT_WORDS,
    SHORTEST_CONTAINED_WORDS,
    question_of,
    texts_of,
)
from datagen.ngrams import Hashes, ngram_hashes
from datagen.similarity import Fingerprint, SimilarityIndex
from datagen.tokens import as_letters, words
from evals.datasets import filled_lines, open_dataset, read_samples
from evals.errors import EvalError

ASIDE = ".contamination-"
"""What the names of its folders begin with; one that was killed leaves its own."""
NEAR = 0.8
"""ROUGE-L from which a text is nearly the same as a question."""
MOST_SHOWN = 200
_LONGEST_TEXT = 300
_LONGEST_NEAR = 3  # a text of so many times a question's words cannot be as similar as NEAR


@dataclass(slots=True)
class Source:
    """Training data, a file of JSON lines: of its `rows`, `ngram` and `near_duplicate` give a question away."""

    name: str
    kind: str
    path: str
    rows: int = 0
    ngram: int = 0
    near_duplicate: int = 0
    error: str | None = None


@dataclass(slots=True)
class Leak:
    """A question that is given away, and by what. `overlap`: the largest share of its runs of words in one text."""

    sample: int
    id: str
    question: str
    overlap: float = 0.0
    similarity: float = 0.0
    by: str = ""
    source: str = ""
    line: int = 0
    text: str = ""
    rows: int = 0


@dataclass(slots=True)
class _Questions:
    """All runs of words [n], sorted by their hash, with the question that each is of; of each how many it has."""

    hashes: npt.NDArray[np.uint64]
    owners: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    lengths: set[int]
    most_words: int
    shown: list[tuple[str, str]] = field(default_factory=list)


def contamination(dataset: Path, sources: Iterable[Source], folder: Path) -> dict[str, Any]:
    """The report. `folder` is for a file that is gone afterwards. Raises EvalError when the dataset cannot be read."""
    leaks: dict[int, Leak] = {}
    read: list[Source] = []
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=ASIDE) as aside,
        SimilarityIndex(Path(aside) / "questions.sqlite") as near,
    ):
        questions = _read_questions(dataset, near)
        for source in sources:
            _look_through(source, questions, near, leaks)
            read.append(source)
    total = len(questions.shown)
    worst = sorted(leaks.values(), key=lambda leak: (-max(leak.overlap, leak.similarity), leak.sample))
    ngram = sum(leak.overlap > 0 for leak in leaks.values())
    return {
        "samples": total,
        "words": DEFAULT_WORDS,
        "near": NEAR,
        "contaminated": len(leaks),
        "share": len(leaks) / total,
        "ngram": ngram,
        "near_duplicate": sum(leak.similarity >= NEAR for leak in leaks.values()),
        "sources": [{key: value for key, value in asdict(source).items() if key != "path"} for source in read],
        "questions": [asdict(leak) for leak in worst[:MOST_SHOWN]],
    }


def _read_questions(dataset: Path, near: SimilarityIndex) -> _Questions:
    hashes, owners, counts = array("Q"), array("q"), array("q")
    lengths: set[int] = set()
    shown: list[tuple[str, str]] = []
    most_words = 0
    with open_dataset(dataset) as stream:
        for number, sample in enumerate(read_samples(stream, dataset.name, None)):
            question = question_of(sample)
            letters = as_letters(words(question))
            grams = np.unique(_grams(letters, min(DEFAULT_WORDS, len(letters)))).tolist() if letters else []
            hashes.extend(grams)
            owners.extend([number] * len(grams))
            counts.append(len(grams))
            lengths.add(min(DEFAULT_WORDS, len(letters)))
            most_words = max(most_words, len(letters))
            shown.append((sample.id, _cut(question)))
            near.add([(str(number), Fingerprint(question))])
    if not shown:
        raise EvalError(f"{dataset.name} has no samples")
    unsorted = np.array(hashes, dtype=np.uint64)
    order = np.argsort(unsorted, kind="stable")
    return _Questions(
        unsorted[order],
        np.array(owners, dtype=np.int64)[order],
        np.array(counts, dtype=np.int64),
        lengths - {0},
        most_words,
        shown,
    )


def _look_through(source: Source, questions: _Questions, near: SimilarityIndex, leaks: dict[int, Leak]) -> None:
    try:
        with open_dataset(Path(source.path)) as stream:
            for line, raw in filled_lines(stream, source.name):
                source.rows += 1
                by_ngram, by_similarity = set[int](), set[int]()
                for text in texts_of(raw):
                    tokens = words(text)
                    for number, overlap in _overlaps(as_letters(tokens), questions):
                        by_ngram.add(number)
                        _note(leaks, questions, number, overlap, 0.0, source, line, text)
                    found = _nearest(text, len(tokens), questions, near)
                    if found is not None:
                        by_similarity.add(found[0])
                        _note(leaks, questions, found[0], 0.0, found[1], source, line, text)
                source.ngram += bool(by_ngram)
                source.near_duplicate += bool(by_similarity)
                for number in by_ngram | by_similarity:
                    leaks[number].rows += 1
    except EvalError as error:
        source.error = str(error)


def _note(
    leaks: dict[int, Leak],
    questions: _Questions,
    number: int,
    overlap: float,
    similarity: float,
    source: Source,
    line: int,
    text: str,
) -> None:
    leak = leaks.setdefault(number, Leak(number + 1, *questions.shown[number]))
    if max(overlap, similarity) > max(leak.overlap, leak.similarity):
        leak.by = "ngram" if overlap else "near_duplicate"
        leak.source, leak.line, leak.text = source.name, line, _cut(text)
    leak.overlap, leak.similarity = max(leak.overlap, overlap), max(leak.similarity, similarity)


def _overlaps(letters: str, questions: _Questions) -> Iterator[tuple[int, float]]:
    """Each question that this text gives away, with the share of its runs of words that are in the text."""
    asked = [_grams(letters, length) for length in sorted(questions.lengths)]
    wanted = np.unique(np.concatenate(asked)) if asked else np.empty(0, dtype=np.uint64)
    first = np.searchsorted(questions.hashes, wanted, side="left")
    last = np.searchsorted(questions.hashes, wanted, side="right")
    places = [np.arange(start, end) for start, end in zip(first, last, strict=True) if end > start]
    if places:
        found, times = np.unique(questions.owners[np.concatenate(places)], return_counts=True)
        for number, count in zip(found.tolist(), times.tolist(), strict=True):
            yield number, min(1.0, count / int(questions.counts[number]))


def _nearest(text: str, count: int, questions: _Questions, near: SimilarityIndex) -> tuple[int, float] | None:
    if not 0 < count <= _LONGEST_NEAR * questions.most_words or count < SHORTEST_CONTAINED_WORDS:
        return None
    found = near.nearest(Fingerprint(text), same_numbers=True)
    return (int(found.id), found.similarity) if found.similarity >= NEAR else None


def _grams(letters: str, length: int) -> Hashes:
    """Of fewer words than SHORTEST_CONTAINED_WORDS the whole text alone counts."""
    if length < SHORTEST_CONTAINED_WORDS and len(letters) != length:
        return np.empty(0, dtype=np.uint64)
    return ngram_hashes(letters, length)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …"
