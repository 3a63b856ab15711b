"""Pure scorers by name: what needs neither an engine nor another process.

`SCORERS` compare two texts; `ANSWER_SCORERS` take a prediction and its question, and know where the answer stands.
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
ANSWER_SCORERS: dict[str, AnswerScorer] = {
    "accuracy": accuracy,
    "exact_match": accuracy,
    "multiple_choice": multiple_choice,
    "numeric": against_targets(numeric),
    "f1": against_targets(f1),
    "rouge_l": against_targets(rouge_l),
}

__all__ = ["ANSWER_SCORERS", "SCORERS", "AnswerScorer", "Answerable", "Score", "Scorer"]
