"""What a proof compares, and how far two log-probabilities are apart."""

import math
from collections.abc import Iterator, Sequence

# Held to the mean over all tokens. Two correct implementations differ by rounding: for a model in bfloat16 the mean was
# 0.04 to 0.07 here, while single unlikely tokens were 1 to 3 apart. Stale weights were 5 apart in the mean.
TOLERANCE = 0.25
# A token that neither thinks possible says nothing: its log-probability is a difference of large numbers.
FLOOR = -12.0


def difference(found: float, expected: float) -> float:
    """Both are held above FLOOR; what is not a finite number counts as infinitely far."""
    if not (math.isfinite(found) and math.isfinite(expected)):
        return math.inf
    return abs(max(found, FLOOR) - max(expected, FLOOR))


# Of a proof for which clients wait, on a CPU: about 0.1 s of one core, whatever the model's size.
_PAUSED_BYTES_TOKENS = 20e9
_FEWEST_TOKENS = 40


def paused_tokens(weights_bytes: int) -> int:
    """How many tokens of its reference a model is asked for while nobody is served."""
    return max(_FEWEST_TOKENS, int(_PAUSED_BYTES_TOKENS / max(1, weights_bytes)))


def shortened(prompts: Sequence[Sequence[int]], max_tokens: int | None) -> Iterator[list[int]]:
    """The prompts, or of each about the same share from its start: at least two tokens of each, so one is compared."""
    total = sum(len(prompt) for prompt in prompts)
    for prompt in prompts:
        kept = len(prompt) if max_tokens is None or total <= max_tokens else max_tokens * len(prompt) // total
        yield list(prompt[: max(2, kept)])
