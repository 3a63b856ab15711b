"""What a request for inference asks for, as far as limits care. A guess that costs microseconds, before any work."""

from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.request.body import RequestBody, decoded
from stepserve.sequences import Sequences, count, sequences_of

BYTES_PER_TOKEN = 4  # of English text and JSON, on the low side: an estimate should rather be too high
DEFAULT_MAX_TOKENS = 256  # where a request names no bound
_MOST = 1 << 40
_QUOTE = ord('"')
ONE = Sequences()

_EMBEDDING_PATHS = ("/embeddings", "/api/embed")
_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "max_new_tokens")
_ANSWERS = ("n", "best_of", "num_return_sequences")
_PROMPTS = frozenset({"prompt", "prompt_embeds", "input"})
_MANY = frozenset({*_ANSWERS, *_PROMPTS})
_READ = frozenset({*_BOUNDS, *_MANY, "model", "model_id", "options", "priority", "request_id", "sampling_params"})


@dataclass(frozen=True, slots=True)
class RequestEstimate:
    """`prompt_tokens` is estimated from the body's length, `max_tokens` is over all of its answers.

    `priority` and `request_id` are as they stand in the body, whatever they are.
    """

    model: str | None = None
    prompt_tokens: int = 0
    max_tokens: int = 0
    priority: Any = None
    request_id: Any = None
    sequences: Sequences = ONE

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.max_tokens


NOTHING = RequestEstimate()
"""Of a body that is no JSON object."""


def estimate_of(body: RequestBody, path: str = "") -> RequestEstimate:
    """An estimate, whatever the body is; what is no JSON object counts as nothing.

    Anything may stand in the fields: whoever serves the request says what is wrong with it. `input` is a list of
    prompts on the routes of embeddings alone: elsewhere it may stand there to be taken for one.
    """
    if not body.is_object:
        return NOTHING
    found: dict[str, Any] = {}
    for name, raw in body.members.items():
        if name in _READ:
            found[name] = _read(name, raw)
    if isinstance(sampling := found.get("sampling_params"), dict):  # of /inference/v1/generate
        found |= {name: sampling[name] for name in ("max_tokens", "n") if name in sampling}
    longest = _longest_tokens(found)
    sequences = ONE
    if not _MANY.isdisjoint(found):
        answers = {name: found[name] for name in _ANSWERS if name in found}
        texts = found.get("input") if path.endswith(_EMBEDDING_PATHS) else None
        sequences = sequences_of(answers, found.get("prompt"), found.get("prompt_embeds"), texts)
    model = found.get("model")
    if not isinstance(model, str):
        model = found.get("model_id")
    return RequestEstimate(
        model=model if isinstance(model, str) else None,
        prompt_tokens=len(body.raw) // BYTES_PER_TOKEN,
        max_tokens=0 if sequences.embeds else min(longest * sequences.total, _MOST),
        priority=found.get("priority"),
        request_id=found.get("request_id"),
        sequences=sequences,
    )


def _longest_tokens(found: dict[str, Any]) -> int:
    """Of one answer."""
    for name in _BOUNDS:
        if name in found and (number := count(found[name])):
            return number
    options = found.get("options")
    predicted = count(options.get("num_predict")) if isinstance(options, dict) else None
    return predicted or DEFAULT_MAX_TOKENS


def _read(name: str, raw: msgspec.Raw) -> object:
    """A long text is one prompt whatever it says, and is not decoded."""
    if name in _PROMPTS and memoryview(raw)[0] == _QUOTE:
        return ""
    return decoded(raw)
