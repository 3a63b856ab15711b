"""Where an answer stands in a prediction, by the form its dataset asks for, and the scorers that look there."""

from collections.abc import Callable, Sequence
from typing import Protocol

from evals.formats.markers import after_hashes, last_boxed
from evals.sample import AnswerForm
from evals.scorers.exact_match import exact_match
from evals.scorers.letters import choice_letter
from evals.scorers.score import Score, Scorer, best


class Answerable(Protocol):
    """What a scorer must know of a question; samples and their records have it."""

    @property
    def accepted(self) -> Sequence[str]: ...
    @property
    def form(self) -> AnswerForm: ...
    @property
    def choices(self) -> Sequence[str]: ...


AnswerScorer = Callable[[str, Answerable], Score]
"""Called with (prediction, question)."""


def against_targets(scorer: Scorer) -> AnswerScorer:
    """The best score over the question's targets."""
    return lambda prediction, question: best([scorer(prediction, target) for target in question.accepted])


def accuracy(prediction: str, question: Answerable) -> Score:
    """Exact match of the answer that the dataset's form asks for: what follows `####` (GSM8K), stands in the last
    `\\boxed{}` (MATH), or the letter of a choice; else the whole text.

    A prediction without its mark is compared whole, and counts as unparsed where that does not match.
    """
    if question.form == "letter":
        return multiple_choice(prediction, question)
    marked: str | None = prediction
    if question.form in {"hashes", "boxed"}:
        marked = after_hashes(prediction) if question.form == "hashes" else last_boxed(prediction)
    said = prediction if marked is None else marked
    score = best([exact_match(said, target) for target in question.accepted])
    if marked is None and not score.correct:
        return Score(value=0.0, correct=False, parsed=False)
    return score._replace(extracted=said)


def multiple_choice(prediction: str, question: Answerable) -> Score:
    """By the letter that the prediction names (evals.scorers.letters)."""
    letter = choice_letter(prediction, question.choices)
    correct = letter in question.accepted
    return Score(value=float(correct), correct=correct, extracted=letter, parsed=letter is not None)
