"""How many questions of a run may stay without a verdict before its numbers say nothing."""

import re
from collections import Counter

from evals.metrics import Metric
from evals.record import MetricScore, SampleRecord

DEFAULT_MAX_ERROR_SHARE = 0.02
_HOPELESS_AFTER = 16
_MOST_REASONS = 1000
_LONGEST_REASON = 400
_NUMBER = re.compile(r"\d+")


def errors_allowed(max_share: float, samples: int) -> int:
    return int(max_share * samples + 1e-9)  # 0.29 * 100 is 28.999…


def failure_of(record: SampleRecord, metric: Metric) -> str | None:
    """Why the question has no verdict by the metric, or None: neither right nor wrong, so it is in no mean.

    The engine refused it, its judge was not reachable, or log-probabilities are missing. An answer that could not be
    worked out within the limits of a scoring process is the model's own: wrong.
    """
    if record.error is not None:
        return record.error
    score = record.scores.get(metric.name)
    return None if score is None else unscored(score, metric)


def unscored(score: MetricScore, metric: Metric) -> str | None:
    """`failure_of` a question that was answered."""
    return score.error if metric.place in {"judge", "choices"} else None


class ErrorShare:
    """Counts the questions without a verdict by the decisive metric, with their reasons (numbers in them apart).

    `samples` is how many questions there are, `max_share` the share of them that may fail.
    """

    def __init__(self, decisive: Metric, samples: int, max_share: float) -> None:
        self._decisive = decisive
        self._samples = samples
        self._max_share = max_share
        self._allowed = errors_allowed(max_share, samples)
        self._asked = 0
        self._errors = self._too_long = 0
        self._kinds: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, record: SampleRecord) -> None:
        self._asked += 1
        reason = failure_of(record, self._decisive)
        if reason is None:
            return
        self._errors += 1
        self._too_long += record.too_long
        reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]} …"
        kind = _NUMBER.sub("0", reason)
        if kind in self._kinds or len(self._kinds) < _MOST_REASONS:
            self._kinds[kind] += 1
            self._examples.setdefault(kind, reason)

    def exceeded(self) -> str | None:
        """Why the run cannot end well any more, with the commonest reason; None while it can.

        That is certain as soon as more questions failed than may fail in all. It is also given up when nothing but
        errors came back from the first questions, which is a model that cannot answer at all (prompts that are too long
        are the questions' fault); with a share of 1 only a run without any answer fails, at its end.
        """
        if not self._errors:
            return None
        nothing = self._errors == self._asked
        over = self._errors > self._allowed
        hopeless = nothing and not self._too_long and self._asked >= _HOPELESS_AFTER and self._max_share < 1
        at_the_end = nothing and self._asked >= self._samples
        if not (over or hopeless or at_the_end):
            return None
        kind, count = self._kinds.most_common(1)[0]
        why = ["not one has"] if nothing else []
        if over:
            why.append(f"max_error_share {self._max_share:g} allows {self._allowed} of {self._samples}")
        return (
            f"{self._errors} of the {self._asked} samples asked so far have no result ({'; '.join(why)});"
            f" most often ({count} times): {self._examples[kind]}"
        )
