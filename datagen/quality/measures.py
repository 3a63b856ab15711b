"""What is measured of accepted rows: of one shard, and, added up, of the job."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from datagen.decontamination import ContaminationIndex
from datagen.ngrams import ngram_hashes
from datagen.quality.config import NEAR
from datagen.quality.sketches import Commonest, DistinctCount, Lengths
from datagen.tokens import as_letters, numbers, words

_MOST_LISTED: Final = 20
_NGRAMS: Final = (1, 2, 3)
_DIGITS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_MOST_DIGITS: Final = 10
_OPENING_WORDS: Final = 2
_LONGEST_NAME: Final = 120
_TENTHS: Final = 10


class Measures:
    """`known`: the sets that rows are compared with. Every method blocks; one thread at a time."""

    def __init__(self, known: ContaminationIndex) -> None:
        self._known = known
        self.rows = 0
        self._conversations, self._questions, self._shapes = DistinctCount(), DistinctCount(), DistinctCount()
        self._numbers = DistinctCount()
        self._ngrams = {(part, n): DistinctCount() for part in ("question", "answer") for n in _NGRAMS}
        self._ngram_totals: Counter[tuple[str, int]] = Counter()
        self._lengths = {"question_chars": Lengths(), "answer_chars": Lengths()}
        self._digits: Counter[int] = Counter()
        self._with_numbers = self._near = self._contaminated = 0
        self._similarity: Counter[int] = Counter()
        self._methods: Counter[str] = Counter()
        self._scores: Counter[str] = Counter()
        self._hits: Counter[str] = Counter()
        self._first_hits: list[dict[str, Any]] = []
        self._sources, self._openings, self._common_shapes = Commonest(), Commonest(), Commonest()
        self._distinct_sources = DistinctCount()
        self._tags = Commonest()

    def add(self, record: dict[str, Any]) -> None:
        """A row in the format `messages`."""
        self.rows += 1
        about = record["metadata"]
        question = "\n".join(turn["content"] for turn in record["messages"] if turn["role"] == "user")
        answer = str(record["messages"][-1]["content"])
        shape = _DIGITS.sub("#", question)
        self._conversations.add(_hashed(str(record["id"])))
        self._questions.add(_hashed(question))
        self._shapes.add(_hashed(shape))
        self._common_shapes.add(_short(shape))
        self._lengths["question_chars"].add(len(question))
        self._lengths["answer_chars"].add(len(answer))
        asked = words(question)
        self._openings.add(_short(" ".join(asked[:_OPENING_WORDS])))
        for part, tokens in (("question", asked), ("answer", words(answer))):
            letters = as_letters(tokens)
            for n in _NGRAMS:
                found = ngram_hashes(letters, n)
                self._ngrams[part, n].add(found)
                self._ngram_totals[part, n] += len(found)
        self._count_numbers(numbers(asked))
        similarity = float(about["max_similarity"])
        self._near += similarity >= NEAR
        self._similarity[min(int(similarity * _TENTHS), _TENTHS - 1)] += 1
        self._methods[about["verify_method"]] += 1
        self._scores[about["verify_method"]] += about["verify_score"]
        self._sources.add(_short(str(about["source_id"])))
        self._distinct_sources.add(_hashed(str(about["source_id"])))
        for tag in str(about["tags"]).split():
            self._tags.add(tag)
        self._look_up(record)

    def merge(self, other: "Measures") -> None:
        """`other` is not to be added to afterwards."""
        self.rows += other.rows
        for mine, theirs in (
            (self._conversations, other._conversations), (self._questions, other._questions),
            (self._shapes, other._shapes), (self._numbers, other._numbers),
            (self._distinct_sources, other._distinct_sources),
        ):  # fmt: skip
            mine.merge(theirs)
        for key, sketch in self._ngrams.items():
            sketch.merge(other._ngrams[key])
        for name, lengths in self._lengths.items():
            lengths.merge(other._lengths[name])
        self._ngram_totals.update(other._ngram_totals)
        self._digits.update(other._digits)
        self._similarity.update(other._similarity)
        self._methods.update(other._methods)
        self._scores.update(other._scores)
        self._hits.update(other._hits)
        self._with_numbers += other._with_numbers
        self._near += other._near
        self._contaminated += other._contaminated
        self._first_hits = (self._first_hits + other._first_hits)[:_MOST_LISTED]
        self._sources.merge(other._sources)
        self._openings.merge(other._openings)
        self._common_shapes.merge(other._common_shapes)
        self._tags.merge(other._tags)

    def shown(self) -> dict[str, Any]:
        """JSON values; shares are of the rows."""
        verified = {method: count for method, count in self._methods.most_common() if method != "none"}
        return {
            "rows": self.rows,
            "duplicates": {
                "same_conversation": self.rows - min(self.rows, self._conversations.count),
                "same_question": self.rows - min(self.rows, self._questions.count),
                "same_question_share": self._share(self.rows - min(self.rows, self._questions.count)),
                "near": self._near,
                "near_share": self._share(self._near),
                "similarity_histogram": {f"{tenth / _TENTHS:.1f}": self._similarity[tenth] for tenth in range(_TENTHS)},
            },
            "contamination": {
                "known_sets": self._known.datasets,
                "rows": self._contaminated,
                "share": self._share(self._contaminated),
                "by_set": dict(self._hits.most_common()),
                "first": self._first_hits,
            },
            "diversity": {
                "distinct_questions": self._questions.count,
                "distinct_shapes": self._shapes.count,
                **{f"{part}_distinct_{n}": self._distinct_share(part, n) for part, n in self._ngrams},
                "openings": _listed(self._openings),
                "shapes": _listed(self._common_shapes),
                "is_exact": all(sketch.is_exact for sketch in (self._questions, *self._ngrams.values())),
            },
            "lengths": {name: lengths.shown() for name, lengths in self._lengths.items()},
            "numbers": {
                "rows_with_numbers": self._with_numbers,
                "distinct": self._numbers.count,
                "by_digits": {str(digits): count for digits, count in sorted(self._digits.items())},
            },
            "verified": {
                "share": self._share(sum(verified.values())),
                "by_method": dict(self._methods.most_common()),
                "agreement": {method: round(self._scores[method] / count, 4) for method, count in verified.items()},
                "mean_agreement": (
                    round(sum(self._scores[method] for method in verified) / sum(verified.values()), 4)
                    if verified
                    else None
                ),
            },
            "sources": {
                "distinct": self._distinct_sources.count,
                "largest_share": self._share(next((count for _, count in self._sources.top(1)), 0)),
                "top": _listed(self._sources),
                "is_exact": self._sources.is_exact,
                "tags": _listed(self._tags),
            },
        }

    def _count_numbers(self, found: Sequence[str]) -> None:
        self._with_numbers += bool(found)
        for number in found:
            self._digits[min(len(number.partition(".")[0]), _MOST_DIGITS)] += 1
            self._numbers.add(_hashed(number))

    def _look_up(self, record: dict[str, Any]) -> None:
        texts = [turn["content"] for turn in record["messages"] if turn["role"] != "system"]
        hit = self._known.hit(*texts)
        if hit is None:
            return
        self._contaminated += 1
        self._hits[hit.dataset] += 1
        if len(self._first_hits) < _MOST_LISTED:
            self._first_hits.append({"id": record["id"], "dataset": hit.dataset, "sample": hit.sample})

    def _share(self, count: int) -> float:
        return round(count / self.rows, 4) if self.rows else 0.0

    def _distinct_share(self, part: str, n: int) -> float | None:
        total = self._ngram_totals[part, n]
        return round(min(1.0, self._ngrams[part, n].count / total), 4) if total else None


def _hashed(text: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
    return np.frombuffer(digest, dtype=np.uint64)


def _short(text: str) -> str:
    return text[:_LONGEST_NAME]


def _listed(counter: Commonest) -> list[dict[str, Any]]:
    return [{"value": value, "rows": count} for value, count in counter.top(_MOST_LISTED)]
