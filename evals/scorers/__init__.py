"""Pure scorers: what needs neither an engine nor another process. Which metric has which stands in evals.metrics.

`SCORERS` compare two texts, by name; an `AnswerScorer` takes a prediction and its question, and knows where the answer
stands.
"""

from evals.scorers.answers import Answerable, AnswerScorer, accuracy, against_targets, multiple_choice
from evals.scorers.exact_match import exact_match
from evals.scorers.numeric import numeric
from evals.scorers.overlap import f1, rouge_l
from evals.scorers.score import Score, Scorer

SCORERS: dict[str, Scorer] = {
    "accuracy": exact_match,
    "exact_match": exact_match,
    "numeric": numeric,
    "f1": f1,
    "rouge_l": rouge_l,
}

__all__ = [
    "SCORERS",
    "AnswerScorer",
    "Answerable",
    "Score",
    "Scorer",
    "accuracy",
    "against_targets",
    "f1",
    "multiple_choice",
    "numeric",
    "rouge_l",
]
