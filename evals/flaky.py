"""Questions whose answers differ between identical runs: what a single run says of them is partly chance. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from evals.record import SampleRecord

Flakiness = Literal["answer", "verdict"]
"""What differs: the answers alone, or also whether they are right."""


def flaky_among(runs: Sequence[Iterable[SampleRecord]]) -> Mapping[str, Flakiness]:
    """By the question's id; those that no two runs answered are not in it. Errors of the engine are no answers."""
    answers: dict[str, set[tuple[str, ...]]] = {}
    verdicts: dict[str, set[float]] = {}
    for run in runs:
        for record in run:
            if record.error is None:
                answers.setdefault(record.id, set()).add(tuple(record.answers))
                verdicts.setdefault(record.id, set()).add(record.score)
    return {
        name: "verdict" if len(verdicts[name]) > 1 else "answer" for name, found in answers.items() if len(found) > 1
    }
