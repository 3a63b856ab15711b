"""Questions whose answers differ between identical runs: what a single run says of them is partly chance. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

from evals.record import SampleRecord

Flakiness = Literal["answer", "verdict"]
"""What differs: the answers alone, or also whether they are right."""


class FlakyQuestions:
    """Runs are read once, one after the other; of each question a digest and a score are kept, and no text."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[bytes, float]] = {}
        self._answers: set[str] = set()
        self._verdicts: set[str] = set()

    def add(self, run: Iterable[SampleRecord]) -> None:
        """Errors of the engine are no answers."""
        for record in run:
            if record.error is not None:
                continue
            answer = _digest(record.answers)
            first_answer, first_score = self._first.setdefault(record.id, (answer, record.score))
            if answer != first_answer:
                self._answers.add(record.id)
            if record.score != first_score:
                self._verdicts.add(record.id)

    @property
    def found(self) -> Mapping[str, Flakiness]:
        """By the question's id, in their order; those that no two runs answered are not in it."""
        return {name: "verdict" if name in self._verdicts else "answer" for name in sorted(self._answers)}


def _digest(answers: Iterable[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for answer in answers:
        content = answer.encode(errors="surrogatepass")
        digest.update(len(content).to_bytes(8))
        digest.update(content)
    return digest.digest()
