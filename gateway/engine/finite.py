"""Whether an answer's numbers are finite, and the error that one is refused with whose are not.

The change to vLLM that asks this of each answer is gateway.engine.patches.finite_answers.
"""

from collections.abc import Callable
from http import HTTPStatus

import numpy as np
from vllm.exceptions import GracefulHTTPError
from vllm.v1.engine import EngineCoreOutput

from gateway.metrics import NOT_FINITE, model_label


class NotFinite(GracefulHTTPError):  # type: ignore[misc]  # vLLM is not looked into for types
    def __init__(self) -> None:
        super().__init__(
            "The model computed numbers that are not finite (NaN) for this request, so there is no answer.",
            HTTPStatus.INTERNAL_SERVER_ERROR,
        )


class Refusals:
    """How many requests of one engine were refused. `model` says what it serves now."""

    def __init__(self, model: Callable[[], str]) -> None:
        self.count = 0
        self._model = model

    def __call__(self) -> None:
        self.count += 1
        NOT_FINITE.labels(model=model_label(self._model())).inc()


def is_finite(output: EngineCoreOutput) -> bool:
    """Microseconds, where no log-probabilities of a prompt were asked for. A token that is not allowed has -inf."""
    if output.num_nans_in_logits:
        return False
    if output.new_logprobs is not None and np.isnan(output.new_logprobs.logprobs).any():
        return False
    prompt = output.new_prompt_logprobs_tensors
    if prompt is not None and bool(prompt.logprobs.isnan().any()):
        return False
    pooled = output.pooling_output
    return pooled is None or not hasattr(pooled, "isfinite") or bool(pooled.isfinite().all())
