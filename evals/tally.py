"""From records to numbers. No result depends on the order in which the records came."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

from evals.clusters import ClusteredMean, clustered_mean, clustered_ratio
from evals.error_share import failure_of
from evals.intervals import mean_error, normal_95, ratio_error, standard_error, wilson_95
from evals.metrics import Metric, decisive, metrics_named, scored
from evals.paired_tests import student_95
from evals.record import SampleRecord

TIMING_KEYS = frozenset({"seconds", "samples_per_s", "tokens_per_s", "resumed_samples", "gpu_seconds", "energy"})
"""What may differ between two runs of the same greedy evaluation; all else is equal."""

Outcome = Literal["correct", "wrong", "truncated", "unparsed", "engine_error", "not_scored"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("correct", "wrong", "truncated", "unparsed", "engine_error", "not_scored")
_LARGEST_EXPONENT = 700.0
_NO_SPREAD = 1e-12


def outcome_of(record: SampleRecord, metric: Metric) -> Outcome:
    """What became of a question by one metric: right, or the one reason why not."""
    if record.error is not None:
        return "engine_error"
    if failure_of(record, metric) is not None:
        return "not_scored"
    score = record.scores.get(metric.name)
    if score is not None and score.correct:
        return "correct"
    if record.truncated:
        return "truncated"
    return "wrong" if score is not None and score.parsed else "unparsed"


class Tally:
    """Counts, and 8 bytes a sample and metric (16 where questions are clustered), which are added up at the end without
    rounding.
    """

    def __init__(self, names: Sequence[str], answers_each: int = 1) -> None:
        self.total = 0
        self.completion_tokens = 0
        self._names = names
        self._main = decisive(names)
        self._metrics = scored(names)
        self._each = answers_each
        self._prompt_tokens = 0
        self._correct = 0.0
        self._decided = self._errors = 0
        self._truncated = self._empty = self._engine_errors = self._too_long = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._values = {metric.name: array("d") for metric in self._metrics}
        self._unparsed: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._stats: dict[str, list[float]] = {}
        self._losses, self._loss_tokens = array("d"), array("d")
        self._numbers: dict[str, int] = {}  # of clusters, by name; below, that of the cluster of each value
        self._clusters = {metric.name: array("q") for metric in self._metrics}
        self._loss_clusters = array("q")

    def add(self, record: SampleRecord) -> None:
        self.total += 1
        self._prompt_tokens += record.prompt_tokens
        self.completion_tokens += record.completion_tokens
        self._outcomes[outcome_of(record, self._main)] += 1
        main = record.scores.get(self._main.name)
        if failure_of(record, self._main) is not None:
            self._errors += 1
        elif main is not None:
            self._decided += 1
            self._correct += sum(main.values or [main.value])
        cluster = None if record.cluster is None else self._numbers.setdefault(record.cluster, len(self._numbers))
        for metric in self._metrics:
            score = record.scores.get(metric.name)
            if failure_of(record, metric) is not None:
                self._failed[metric.name] += 1
            elif score is not None:
                self._values[metric.name].append(score.value)
                if cluster is not None:
                    self._clusters[metric.name].append(cluster)
                self._unparsed[metric.name] += not score.parsed
                self._failed[metric.name] += score.error is not None
                if score.stats is not None:
                    sums = self._stats.setdefault(metric.name, [0.0] * len(score.stats))
                    self._stats[metric.name] = [a + b for a, b in zip(sums, score.stats, strict=True)]
        if record.error is not None:
            self._engine_errors += 1
            self._too_long += record.too_long
            return
        self._truncated += record.truncated
        self._empty += not record.prediction.strip()
        if record.reference_logprob is not None:
            self._losses.append(0.0 - record.reference_logprob)
            self._loss_tokens.append(record.reference_tokens)
            if cluster is not None:
                self._loss_clusters.append(cluster)

    @property
    def corpus_counts(self) -> dict[str, list[float]]:
        """Sums of the counts that corpus scores are made of, by metric."""
        return self._stats

    def metrics(self, corpus: dict[str, float] | None = None) -> dict[str, Any]:
        """Needs at least one record. `errors` samples have no verdict: they are in no mean, and `answered_samples` (all
        others) is what `accuracy` is a share of.

        Where questions name what they belong to, errors and intervals allow for it, as those of a comparison do
        (evals.compare).

        `avg_loss` is the negative log-likelihood a token over all references (nats), null without any;
        `perplexity` is its exponential, null also where that has no finite value. `corpus` has the corpus scores.
        """
        loss = self._loss()
        decided = self._decided > 0  # a dataset of programs has no accuracy of its own
        main = self._interval(self._main) if decided else None
        return {
            "accuracy": main and main["mean"],
            "accuracy_metric": self._main.name if decided else None,
            "correct": round(self._correct) if decided else None,
            "total_samples": self.total,
            "answered_samples": self.total - self._errors,
            "errors": self._errors,
            "accuracy_denominator": "answered_samples",
            "answers_per_sample": self._each,
            "accuracy_stderr": main and main["stderr"],
            "accuracy_ci95": main and main["ci95"],
            **({"clusters": len(self._numbers)} if self._numbers else {}),
            "avg_loss": loss["mean"],
            "perplexity": _perplexity(loss)["mean"],
            "loss_samples": len(self._losses),
            "reference_tokens": int(math.fsum(self._loss_tokens)),
            "metrics": {
                metric.name: self._one(metric, loss, corpus or {})
                for metric in {one.name: one for one in (*metrics_named(self._names), *self._metrics)}.values()
                if decided or metric != self._main or metric.name in self._names
            },
            "outcomes": {name: self._outcomes[name] for name in OUTCOMES} if decided else None,
            "truncated": self._truncated,
            "unparsed": self._outcomes["unparsed"],
            "empty": self._empty,
            "engine_errors": self._engine_errors,
            "prompts_too_long": self._too_long,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }

    def _one(self, metric: Metric, loss: dict[str, Any], corpus: dict[str, float]) -> dict[str, Any]:
        if metric.place == "loss":
            return loss if metric.name == "avg_loss" else _perplexity(loss)
        shown = self._interval(metric)
        shown |= {"unparsed": self._unparsed[metric.name], "errors": self._failed[metric.name]}
        if metric.aggregate is not None and self._values[metric.name]:
            shown["aggregate"] = metric.aggregate(self._values[metric.name])
        return shown | ({"corpus": corpus[metric.name]} if metric.name in corpus else {})

    def _interval(self, metric: Metric) -> dict[str, Any]:
        values, clusters = self._values[metric.name], self._clusters[metric.name]
        if not values:
            return {"mean": None, "stderr": None, "ci95": None, "samples": 0}
        if self._numbers:
            return _clustered(clustered_mean(values, clusters), len(values))
        if metric.decides and self._each == 1:
            return _proportion(round(math.fsum(values)), len(values))
        mean, error = mean_error(values)
        interval = None if error is None else list(normal_95(mean, error, 0.0, 1.0))
        return {"mean": mean, "stderr": error, "ci95": interval, "samples": len(values)}

    def _loss(self) -> dict[str, Any]:
        if not self._losses:
            return {"mean": None, "stderr": None, "ci95": None, "samples": 0}
        if self._numbers:
            found = clustered_ratio(self._losses, self._loss_tokens, self._loss_clusters)
            return _clustered(found, len(self._losses), math.inf)
        mean, error = ratio_error(self._losses, self._loss_tokens)
        interval = None if error is None else list(normal_95(mean, error, low=0.0))
        return {"mean": mean, "stderr": error, "ci95": interval, "samples": len(self._losses)}


def _proportion(successes: int, trials: int) -> dict[str, Any]:
    return {
        "mean": successes / trials,
        "stderr": standard_error(successes, trials),
        "ci95": list(wilson_95(successes, trials)),
        "samples": trials,
    }


def _clustered(found: ClusteredMean, samples: int, high: float = 1.0) -> dict[str, Any]:
    """Student's interval within what is possible, 0 to `high`; null with one cluster.

    Where no cluster differs from another (all are right, say), which Student's t takes for certainty, it is Wilson's of
    as many questions as there are clusters.
    """
    mean, error, clusters = found.mean, found.error, found.clusters
    interval: list[float] | None = None
    if error is not None and error <= _NO_SPREAD and high == 1.0:
        interval = list(wilson_95(mean * clusters, clusters))
    elif error is not None:
        low, top = student_95(mean, error, clusters - 1)
        interval = [max(0.0, low), min(high, top)]
    return {"mean": mean, "stderr": error, "ci95": interval, "samples": samples, "clusters": clusters}


def _perplexity(loss: dict[str, Any]) -> dict[str, Any]:
    """The exponential of the loss and of its interval; the error by the delta method."""
    mean, interval = loss["mean"], loss["ci95"]
    if mean is None or mean >= _LARGEST_EXPONENT:
        return {"mean": None, "stderr": None, "ci95": None, "samples": loss["samples"]}
    perplexity = math.exp(mean)
    return {
        "mean": perplexity,
        "stderr": None if loss["stderr"] is None else perplexity * loss["stderr"],
        "ci95": None if interval is None else [math.exp(min(end, _LARGEST_EXPONENT)) for end in interval],
        "samples": loss["samples"],
    }
