"""The metrics that can be asked for, by name."""

from evals.scorers.exact_match import exact_match
from evals.scorers.score import Score, Scorer

SCORERS: dict[str, Scorer] = {"accuracy": exact_match}
METRICS: tuple[str, ...] = (*SCORERS, "avg_loss")

__all__ = ["METRICS", "SCORERS", "Score", "Scorer"]
