"""What a request for inference asks for, as far as limits care. A guess that costs microseconds, before any work."""

from dataclasses import dataclass
from typing import Any, TypeGuard

import msgspec

ASK_KEY = "switchyard.ask"
"""Where in a scope stands what its request asks for (an Ask)."""

BYTES_PER_TOKEN = 4  # of English text and JSON, on the low side: an estimate should rather be too high
DEFAULT_MAX_TOKENS = 256  # where a request names no bound
_MOST = 1 << 40
_LONGEST_NUMBER = 64  # characters


@dataclass(frozen=True, slots=True)
class Ask:
    """`prompt_tokens` is estimated from the body's length, `max_tokens` is over all of its answers.

    `prompts` times `answers` sequences are made in the engine for it. `embeds`: they are texts to be made vectors of,
    for which nothing is generated. `priority` and `request_id` are as they stand in the body, whatever they are.
    """

    model: str | None = None
    prompt_tokens: int = 0
    max_tokens: int = 0
    priority: Any = None
    request_id: Any = None
    prompts: int = 1
    answers: int = 1
    embeds: bool = False

    @property
    def sequences(self) -> int:
        return self.prompts * self.answers

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.max_tokens


NOTHING = Ask()
"""Of a body that is no JSON object."""


class _Body(msgspec.Struct):
    """Anything may stand in these fields: whoever serves the request says what is wrong with it."""

    model: Any = None
    model_id: Any = None
    prompt: Any = None
    prompt_embeds: Any = None
    input: Any = None
    n: Any = None
    best_of: Any = None
    num_return_sequences: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    max_new_tokens: Any = None
    options: Any = None
    priority: Any = None
    request_id: Any = None


_decoder = msgspec.json.Decoder(_Body)


def ask_of(body: bytes) -> Ask:
    """An estimate, whatever the body is; what is no JSON object counts as nothing."""
    try:
        found = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOTHING
    predicted = found.options.get("num_predict") if isinstance(found.options, dict) else None
    bounds = (found.max_completion_tokens, found.max_tokens, found.max_output_tokens, found.max_new_tokens, predicted)
    longest = next((count for count in map(_count, bounds) if count), DEFAULT_MAX_TOKENS)
    answers = max(_count(said) or 1 for said in (found.n, found.best_of, found.num_return_sequences))
    embeds = _holds_many(found.input)
    prompts = len(found.input) if embeds else max(1, _prompts(found.prompt) + _embedded(found.prompt_embeds))
    model = next((name for name in (found.model, found.model_id) if isinstance(name, str)), None)
    asked = 0 if embeds else min(longest * answers * prompts, _MOST)
    return Ask(
        model, len(body) // BYTES_PER_TOKEN, asked, found.priority, found.request_id, prompts, answers, embeds
    )  # fmt: skip


def _count(value: object) -> int | None:
    """A positive number as pydantic would read it, which takes `"5"` and `5.0` for 5; None for anything else."""
    if isinstance(value, str) and len(value) <= _LONGEST_NUMBER:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        return None
    return int(value) or None


def _holds_many(value: object) -> TypeGuard[list[object]]:
    """A list of texts or of token lists is many prompts, one of tokens is one; so is one of messages."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], str | list)


def _prompts(prompt: object) -> int:
    if prompt is None:
        return 0
    return len(prompt) if _holds_many(prompt) else 1


def _embedded(embeds: object) -> int:
    """Prompts that come as vectors, in base64: each stands for one beside those in `prompt`."""
    return len(embeds) if isinstance(embeds, list) else int(embeds is not None)
