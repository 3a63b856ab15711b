"""What a request's body may hold, looked at before anything is made of it: how deep, how many values, how long a text.

A body is bounded in bytes already, but a few of them can stand for much work: `1,` for an object of an engine's queue,
`"x",` for a message of a template, and every character for a tokenizer's time. All of it is done in the event loop that
everybody's tokens come through, or in the one thread that tokenizes. Small bodies can do no harm and are not looked
into; those of some hundred KB are looked into in a thread, piece by piece, since no parser lets go of the interpreter.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from gateway.errors import InvalidField, InvalidRequest
from gateway.request.body import RequestBody, decoded
from gateway.request.estimate import RequestEstimate, estimate_of
from gateway.request.json_shape import (
    IN_THREAD_BYTES,
    are_tokens,
    beside,
    fits_64_bits,
    has_long_digits,
    is_deeper,
    may_hold_more,
    quotes,
    strings,
    structure_of,
    values_at_most,
)
from gateway.request.unreadable import unreadable
from stepserve.contract import MAX_STOP_TEXTS
from stepserve.unreadable_json import is_utf_8

HARMLESS_BYTES = 16 * 1024
"""A body up to this length may hold what it likes, apart from depth, names and sequences."""

_MAX_DEPTH = 128
_LONGEST_NAME = 512  # characters of a string that the gateway itself looks up, writes down or hands on

_NAMES = ("model", "model_id", "name", "request_id", "previous_response_id", "session_id", "user")
_SAFETY_NAMES = ("safety_identifier", "cache_salt", "prompt_cache_key", "service_tier")

# How many values (items, members, and what they hold) a field may have, where it is not _MOST_VALUES. vLLM tries each
# message, part and tool against up to twenty types, and tells of each what does not fit: 32,000 take it seconds.
_MOST_VALUES = 16 * 1024
_MOST_STRINGS = 16 * _MOST_VALUES  # in all fields together, their names included
_VALUES: Mapping[str, int] = {
    "input": 4 * 1024,
    "system": 4 * 1024,
    "prompt": 4 * 1024,
    "tokens": 4 * 1024,
    "token_ids": 4 * 1024,
    "context": 4 * 1024,
    "prompt_embeds": 4 * 1024,
    "stop": 2 * MAX_STOP_TEXTS,
    "stop_sequences": 2 * MAX_STOP_TEXTS,
    "bad_words": 256,
    "include": 64,
    "metadata": 256,
    "tags": 256,
    "stop_token_ids": 16 * 1024,
    "allowed_token_ids": 16 * 1024,
    "logprob_token_ids": 16 * 1024,
    "logit_bias": 16 * 1024,
}
# Those that may hold token ids of whole prompts, which cost little: where all of it is such, the body's limit holds.
_OF_MESSAGES = frozenset({"messages", "tools"})
_OF_TOKENS = frozenset({"tokens", "token_ids", "context"})
_OF_TOKENS_OR_LISTS_OF_THEM = frozenset({"prompt", "input"})
# Characters of fields that no context bounds: each is tokenized, looked for at each token, or kept.
_CHARS: Mapping[str, int] = dict.fromkeys((*_NAMES, *_SAFETY_NAMES), _LONGEST_NAME) | {
    "stop": 16 * 1024,
    "stop_sequences": 16 * 1024,
    "bad_words": 16 * 1024,
    "metadata": 64 * 1024,
    "suffix": 64 * 1024,
    "vllm_xargs": 64 * 1024,
    "kv_transfer_params": 64 * 1024,
    "ec_transfer_params": 64 * 1024,
}


@dataclass(frozen=True, slots=True)
class RequestBounds:
    """`max_sequences`: of prompts times answers; `max_text_chars` of a text that no context bounds, such as one that is
    to be truncated; `max_values`: of JSON values in a body.
    """

    max_sequences: int
    max_text_chars: int
    max_values: int
    max_message_values: int = 8 * 1024

    async def estimate(self, body: RequestBody, path: str) -> RequestEstimate:
        """What the body asks for, once it is known to be within these bounds. Raises InvalidField, InvalidRequest."""
        if len(body.raw) <= IN_THREAD_BYTES:
            return self.estimate_now(body, path)
        return await beside(self.estimate_now, body, path)

    @classmethod
    def unbounded(cls) -> "RequestBounds":
        return cls(sys.maxsize, sys.maxsize, sys.maxsize)

    def estimate_now(self, body: RequestBody, path: str = "") -> RequestEstimate:
        """Blocks for as long as it takes to look through the body."""
        raw = body.raw
        if len(raw) > HARMLESS_BYTES:
            self._check_shape(body, path)
        elif raw.count(b"[") + raw.count(b"{") > _MAX_DEPTH and is_deeper(structure_of(raw), _MAX_DEPTH):
            raise _too_deep()
        if raw and not (body.is_object and is_utf_8(raw)):  # an empty one may be all that a route wants
            raise unreadable(raw)
        if has_long_digits(raw):
            _check_integers(body)
        estimate = estimate_of(body, path)
        self._check_estimate(estimate)
        return estimate

    def _check_shape(self, whole: RequestBody, path: str) -> None:
        body, fields = whole.raw, whole.members
        if not whole.is_object:
            if is_deeper(structure_of(body), _MAX_DEPTH):
                raise _too_deep()
            raise unreadable(body)
        if may_hold_more(body, self.max_values) or body.count(b"[") + body.count(b"{") > _MAX_DEPTH:
            if (texts := quotes(body) // 2) > _MOST_STRINGS:
                field = max(fields, key=lambda name: quotes(bytes(fields[name])))[:_LONGEST_NAME]
                raise InvalidField(
                    field, f"the body holds {texts} strings, most of them here; at most {_MOST_STRINGS} are taken"
                )
            structure = structure_of(body)
            if (values := values_at_most(structure)) > self.max_values:
                field, most = _fullest(fields)
                raise InvalidField(
                    field,
                    f"the body holds {values} JSON values, most of them here ({most}); at most {self.max_values} are"
                    " taken (setting limits.max_body_values)",
                )
            if is_deeper(structure, _MAX_DEPTH):
                raise _too_deep()
        for name, raw in fields.items():
            if len(name) > _LONGEST_NAME:
                raise InvalidRequest(f"A field's name has {len(name)} characters; at most {_LONGEST_NAME} are taken.")
            self._check_field(name, bytes(raw), path)

    def _check_field(self, name: str, raw: bytes, path: str) -> None:
        of_messages = name in _OF_MESSAGES or (name == "input" and path.endswith("/responses"))
        limit = self.max_message_values if of_messages else _VALUES.get(name, _MOST_VALUES)
        if may_hold_more(raw, limit):
            if (texts := quotes(raw) // 2) > 2 * max(_MOST_VALUES, limit):
                raise InvalidField(name, f"holds {texts} strings; at most {limit} values are taken")
            nested = name in _OF_TOKENS_OR_LISTS_OF_THEM
            if (nested or name in _OF_TOKENS) and not path.endswith("/responses") and are_tokens(raw, nested=nested):
                limit = self.max_values
            if (values := values_at_most(structure_of(raw))) > limit:
                setting = " (setting limits.max_message_values)" if of_messages else ""
                raise InvalidField(
                    name, f"holds {values} JSON values, items and what is in them; at most {limit} are taken{setting}"
                )
        longest = _CHARS.get(name)
        if longest is not None and len(raw) > longest and (chars := sum(map(len, strings(decoded(raw))))) > longest:
            raise InvalidField(name, f"has {chars} characters; at most {longest} are taken")

    def _check_estimate(self, asked: RequestEstimate) -> None:
        if asked.model is not None and len(asked.model) > _LONGEST_NAME:
            raise InvalidField("model", f"has {len(asked.model)} characters; names have at most {_LONGEST_NAME}")
        if isinstance(asked.request_id, str) and (length := len(asked.request_id)) > _LONGEST_NAME:
            raise InvalidField("request_id", f"has {length} characters; at most {_LONGEST_NAME} are taken")
        if (refusal := asked.sequences.too_many(self.max_sequences)) is not None:
            raise InvalidField(*refusal)


def _fullest(fields: Mapping[str, msgspec.Raw]) -> tuple[str, int]:
    counts = {name: values_at_most(structure_of(bytes(raw))) for name, raw in fields.items()}
    name = max(counts, key=lambda one: counts[one])
    return name[:_LONGEST_NAME], counts[name]


_SAID = frozenset({"messages", "input", "system", "tools", "functions", "documents", "metadata", "response_format"})


def _check_integers(body: RequestBody) -> None:
    """vLLM's engine and its messages have no larger ones: an error of the server's, only after the work has begun.

    What is said, and schemas, are texts to them.
    """
    for name, raw in body.members.items():
        if name not in _SAID and not fits_64_bits(bytes(raw)):
            raise InvalidField(name[:_LONGEST_NAME], "holds a whole number that does not fit into 64 bits")


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The body is nested too deeply: more than {_MAX_DEPTH} levels.")
