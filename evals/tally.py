"""From records to numbers. No result depends on the order in which the records came."""

import math
from array import array
from typing import Any

from evals.intervals import standard_error, wilson_95
from evals.samples_log import SampleRecord

TIMING_KEYS = frozenset({"seconds", "samples_per_s", "tokens_per_s", "resumed_samples"})
"""What may differ between two runs of the same greedy evaluation; all else is equal."""

_LARGEST_EXPONENT = 700.0


class Tally:
    """Exact counts, and the log-probabilities (8 bytes a sample), which are added up at the end without rounding."""

    def __init__(self) -> None:
        self.total = 0
        self.completion_tokens = 0
        self._prompt_tokens = 0
        self._correct = 0
        self._truncated = 0
        self._empty = 0
        self._engine_errors = 0
        self._reference_tokens = 0
        self._logprobs = array("d")

    def add(self, record: SampleRecord) -> None:
        self.total += 1
        self._prompt_tokens += record.prompt_tokens
        self.completion_tokens += record.completion_tokens
        if record.error is not None:
            self._engine_errors += 1
            return
        self._correct += record.correct
        self._truncated += record.finish_reason == "length"
        self._empty += not record.prediction.strip()
        if record.reference_logprob is not None:
            self._logprobs.append(record.reference_logprob)
            self._reference_tokens += record.reference_tokens

    def metrics(self) -> dict[str, Any]:
        """Needs at least one record. Samples with an engine error count as asked and not correct.

        `avg_loss` is the negative log-likelihood a token over all references (nats), null without any;
        `perplexity` is its exponential, null also where that has no finite value.
        """
        avg_loss = (0.0 - math.fsum(self._logprobs)) / self._reference_tokens if self._reference_tokens else None
        has_perplexity = avg_loss is not None and avg_loss < _LARGEST_EXPONENT
        return {
            "accuracy": self._correct / self.total,
            "correct": self._correct,
            "total_samples": self.total,
            "accuracy_stderr": standard_error(self._correct, self.total),
            "accuracy_ci95": list(wilson_95(self._correct, self.total)),
            "avg_loss": avg_loss,
            "perplexity": math.exp(avg_loss) if avg_loss is not None and has_perplexity else None,
            "loss_samples": len(self._logprobs),
            "reference_tokens": self._reference_tokens,
            "truncated": self._truncated,
            "empty": self._empty,
            "engine_errors": self._engine_errors,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }
