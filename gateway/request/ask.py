"""What a request for inference asks for, as far as limits care. A guess that costs microseconds, before any work."""

from dataclasses import dataclass
from typing import Any

import msgspec

from stepserve.sequences import Sequences, count, sequences_of

ASK_KEY = "stepserve.ask"
"""Where in a scope stands what its request asks for (an Ask)."""

BYTES_PER_TOKEN = 4  # of English text and JSON, on the low side: an estimate should rather be too high
DEFAULT_MAX_TOKENS = 256  # where a request names no bound
_MOST = 1 << 40
ONE = Sequences()


@dataclass(frozen=True, slots=True)
class Ask:
    """`prompt_tokens` is estimated from the body's length, `max_tokens` is over all of its answers.

    `priority`, `request_id` and `previous_response_id` are as they stand in the body, whatever they are.
    """

    model: str | None = None
    prompt_tokens: int = 0
    max_tokens: int = 0
    priority: Any = None
    request_id: Any = None
    sequences: Sequences = ONE
    previous_response_id: Any = None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.max_tokens


EMBEDDING_PATHS = ("/embeddings", "/api/embed")
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
    previous_response_id: Any = None


_decoder = msgspec.json.Decoder(_Body)


def ask_of(body: bytes, path: str = "") -> Ask:
    """An estimate, whatever the body is; what is no JSON object counts as nothing.

    `input` is a list of prompts on the routes of embeddings alone: elsewhere it may stand there to be taken for one.
    """
    try:
        found = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOTHING
    predicted = found.options.get("num_predict") if isinstance(found.options, dict) else None
    bounds = (found.max_completion_tokens, found.max_tokens, found.max_output_tokens, found.max_new_tokens, predicted)
    longest = next((number for number in map(count, bounds) if number), DEFAULT_MAX_TOKENS)
    answers = {"n": found.n, "best_of": found.best_of, "num_return_sequences": found.num_return_sequences}
    texts = found.input if path.endswith(EMBEDDING_PATHS) else None
    sequences = sequences_of(answers, found.prompt, found.prompt_embeds, texts)
    model = next((name for name in (found.model, found.model_id) if isinstance(name, str)), None)
    asked = 0 if sequences.embeds else min(longest * sequences.total, _MOST)
    return Ask(
        model,
        len(body) // BYTES_PER_TOKEN,
        asked,
        found.priority,
        found.request_id,
        sequences,
        found.previous_response_id,
    )
