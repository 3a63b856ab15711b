"""Keeps test questions out of training data: word n-grams of every dataset the server knows.

A text is contaminated when it shares a run of 13 words with a question (as in Brown et al. 2020, appendix C), or holds
the whole of a question that is shorter than that. Of a question of three words or fewer nothing less than equality
counts: too much would be removed for it.
"""

import gzip
import json
import logging
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.ngrams import Hashes, ngram_hashes
from datagen.tokens import as_letters, words
from evals.datasets import digest_of, open_dataset, read_samples
from evals.errors import EvalError
from evals.sample import AnswerIs, Sample
from stepserve.durable import written_aside

DEFAULT_WORDS = 13
SHORTEST_CONTAINED_WORDS = 4
_EVERY_SAMPLE = 2**62
_HASHES = "h2"  # which hash a kept file is of (datagen.ngrams)
_SUFFIXES = (".jsonl", ".jsonl.gz")
_WAYS: tuple[AnswerIs, ...] = ("index", "letter", "text")
_Ngrams = tuple[Hashes, npt.NDArray[np.uint32], set[int]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hit:
    """The question that a text gives away: `sample` counts the dataset's samples from 1."""

    dataset: str
    sample: int


def file_names(named: Iterable[str]) -> frozenset[str]:
    """Datasets as configs name them, with or without their suffix."""
    return frozenset(name for given in named for name in (given, *(f"{given}{suffix}" for suffix in _SUFFIXES)))


class ContaminationIndex:
    """Looks texts up among the n-grams: sorted arrays of 64-bit hashes, 12 bytes an n-gram."""

    def __init__(self, most_words: int = DEFAULT_WORDS) -> None:
        self.most_words = most_words
        self.datasets: list[str] = []
        self.unreadable: dict[str, str] = {}
        self._hashes: list[Hashes] = []
        self._samples: list[npt.NDArray[np.uint32]] = []
        self._lengths: set[int] = set()

    @property
    def ngrams(self) -> int:
        return sum(len(hashes) for hashes in self._hashes)

    def add_folder(
        self, folder: Path, cache: Path, spared: frozenset[str] = frozenset(), only: frozenset[str] | None = None
    ) -> None:
        """Every dataset below the folder but those `spared` by name; of `only` these.

        One whose lines are no samples is taken as it is, each text in it as a question, and noted in `unreadable`.

        `cache` keeps the arrays of each content, which are then mapped, not read. Blocks; raises OSError when the cache
        cannot be written.
        """
        cache.mkdir(parents=True, exist_ok=True)
        for path in sorted(path for path in folder.rglob("*") if path.name.endswith(_SUFFIXES) and path.is_file()):
            name = str(path.relative_to(folder))
            if name in spared or (only is not None and name not in only):
                continue
            try:
                self._add(name, path, cache)
            except EvalError as error:
                self.unreadable[name] = str(error)
                _log.warning("decontamination: %s", error)

    def add_questions(self, name: str, questions: Iterator[str]) -> None:
        """As a dataset of that name."""
        hashes, samples, lengths = _ngrams(questions, self.most_words)
        self._take(name, hashes, samples, lengths)

    def hit(self, *texts: str) -> Hit | None:
        """The first dataset's question that any of the texts gives away."""
        for text in texts:
            asked = self._asked(text)
            if not len(asked):
                continue
            for name, hashes, samples in zip(self.datasets, self._hashes, self._samples, strict=True):
                places = np.searchsorted(hashes, asked)
                places[places == len(hashes)] = 0
                found = hashes[places] == asked
                if found.any():
                    return Hit(name, int(samples[places[int(found.argmax())]]))
        return None

    def _asked(self, text: str) -> Hashes:
        letters = as_letters(words(text))
        return np.concatenate(
            [
                ngram_hashes(letters, length)
                for length in sorted(self._lengths)
                if length >= SHORTEST_CONTAINED_WORDS or length == len(letters)
            ]
            or [np.empty(0, dtype=np.uint64)]
        )

    def _add(self, name: str, path: Path, cache: Path) -> None:
        with open_dataset(path) as stream:
            kept = cache / f"{digest_of(stream).removeprefix('sha256:')}-{self.most_words}.{_HASHES}.npz"
            if kept.exists():
                with np.load(kept) as arrays:
                    self._take(name, arrays["hashes"], arrays["samples"], set(arrays["lengths"].tolist()))
                return
            try:
                hashes, samples, lengths = self._of_questions(stream, name)
            except EvalError as error:
                self.unreadable[name] = str(error)
                _log.warning("decontamination takes every text of %s for a question: %s", name, error)
                self._take(name, *_ngrams(_any_texts(path), self.most_words))
                return
        with written_aside(kept, durable=False) as aside, aside.open("wb") as file:
            np.savez(file, hashes=hashes, samples=samples, lengths=np.array(sorted(lengths), dtype=np.int64))
        self._take(name, hashes, samples, lengths)

    def _of_questions(self, stream: BufferedReader, name: str) -> _Ngrams:
        """Which choice is right does not matter here, so any way to read that will do. Raises EvalError."""
        broken: EvalError | None = None
        for answer_is in (None, *_WAYS):
            try:
                samples = read_samples(stream, name, _EVERY_SAMPLE, answer_is=answer_is)
                return _ngrams((question_of(sample) for sample in samples), self.most_words)
            except EvalError as error:
                broken = broken or error
        assert broken is not None
        raise broken

    def _take(self, name: str, hashes: Hashes, samples: npt.NDArray[np.uint32], lengths: set[int]) -> None:
        if len(hashes):
            self.datasets.append(name)
            self._hashes.append(hashes)
            self._samples.append(samples)
            self._lengths |= lengths


def _any_texts(path: Path) -> Iterator[str]:
    """A text a line: all that is said in its values, where they are JSON; nothing of fewer than four words."""
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
        try:
            for raw in stream:
                yield "\n".join(filter(_is_long_enough, texts_of(raw)))
        except (OSError, EOFError, zlib.error) as error:
            _log.warning("decontamination: %s cannot be read to its end: %s", path.name, error)


def texts_of(raw: bytes) -> Iterator[str]:
    try:
        waiting: list[Any] = [json.loads(raw)]
    except (ValueError, RecursionError):
        waiting = [raw.decode(errors="replace")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | dict):
            waiting += value.values() if isinstance(value, dict) else value


def _is_long_enough(text: str) -> bool:
    return len(words(text)) >= SHORTEST_CONTAINED_WORDS


def question_of(sample: Sample) -> str:
    """What a sample asks: its text, or what the users' turns say."""
    if isinstance(sample.input, str):
        return sample.input
    return "\n".join(str(turn["content"]) for turn in sample.input if turn["role"] != "system")


def _ngrams(questions: Iterator[str], most_words: int) -> _Ngrams:
    """Sorted hashes, each once, with the first sample that has it; and how many words they are of."""
    hashes, samples = array("Q"), array("L")
    lengths: set[int] = set()
    for number, question in enumerate(questions, start=1):
        letters = as_letters(words(question))
        if not letters:
            continue
        length = min(most_words, len(letters))
        lengths.add(length)
        found = ngram_hashes(letters, length)
        hashes.frombytes(found.tobytes())
        samples.extend([number] * len(found))
    unique, first = np.unique(np.array(hashes, dtype=np.uint64), return_index=True)
    return unique, np.array(samples, dtype=np.uint32)[first], lengths
