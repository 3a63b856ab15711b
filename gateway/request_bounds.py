"""What a request's body may hold, looked at before anything is made of it: how deep, how many values, how long a text.

A body is bounded in bytes already, but a few of them can stand for much work: `1,` for an object of an engine's queue,
`"x",` for a message of a template, and every character for a tokenizer's time. All of it is done in the event loop that
everybody's tokens come through, or in the one thread that tokenizes. Small bodies can do no harm and are not looked
into; those of some hundred KB are looked into in a thread, piece by piece, since no parser lets go of the interpreter.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from gateway.access.ask import Ask, ask_of
from gateway.errors import InvalidField, InvalidRequest

T = TypeVar("T")

HARMLESS_BYTES = 16 * 1024
"""A body up to this length may hold what it likes, apart from depth, names and sequences."""

_IN_THREAD_BYTES = 256 * 1024
_MAX_DEPTH = 128
_LONGEST_NAME = 512  # characters of a string that the gateway itself looks up, writes down or hands on

_NAMES = ("model", "model_id", "name", "request_id", "previous_response_id", "session_id", "user")
_SAFETY_NAMES = ("safety_identifier", "cache_salt", "prompt_cache_key", "service_tier")

# How many values (items, members, and what they hold) a field may have, where it is not _MOST_VALUES. Token ids of
# whole prompts, which cost least, are bounded by the body's own limit alone.
_MOST_VALUES = 32 * 1024
_LISTS_OF_TOKENS = frozenset({"prompt", "input", "tokens", "context", "prompt_embeds"})
_VALUES: Mapping[str, int] = {
    "stop": 64,
    "stop_sequences": 64,
    "bad_words": 256,
    "include": 64,
    "metadata": 256,
    "tags": 256,
    "stop_token_ids": 16 * 1024,
    "allowed_token_ids": 16 * 1024,
    "logprob_token_ids": 16 * 1024,
    "logit_bias": 16 * 1024,
}
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
# What a chat's prompt is rendered from. `tools` count, since templates write them into the prompt.
_CHAT_TEXTS = ("messages", "system", "instructions", "input", "tools", "documents", "chat_template_kwargs")
_LONG_KEY = 32  # characters; shorter ones are the names of fields, which are no text
_MEDIA = frozenset(
    {
        "image_url", "image", "input_image", "image_embeds", "audio_url", "input_audio", "audio_embeds", "video_url",
        "prompt_embeds",
    }
)  # fmt: skip

_BRACKETS_ALIKE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(code for code in range(256) if code not in b"[]{}")
_PIECE_BYTES = 1 << 20


# One at a time: each holds the interpreter for tens of milliseconds, and the event loop has its turn between two.
_looking = ThreadPoolExecutor(1, thread_name_prefix="bodies")


async def _beside(look: Callable[..., T], *about: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(_looking, look, *about)


@dataclass(frozen=True, slots=True)
class RequestBounds:
    """`max_sequences`: of prompts times answers; `max_text_chars` of a text that no context bounds, such as one that is
    to be truncated; `max_values`: of JSON values in a body.
    """

    max_sequences: int
    max_text_chars: int
    max_values: int

    async def ask(self, body: bytes) -> Ask:
        """What the body asks for, once it is known to be within these bounds. Raises InvalidField, InvalidRequest."""
        if len(body) <= _IN_THREAD_BYTES:
            return self.ask_now(body)
        return await _beside(self.ask_now, body)

    @classmethod
    def unbounded(cls) -> "RequestBounds":
        return cls(sys.maxsize, sys.maxsize, sys.maxsize)

    def ask_now(self, body: bytes) -> Ask:
        """Blocks for as long as it takes to look through the body."""
        if len(body) <= HARMLESS_BYTES:
            if body.count(b"[") + body.count(b"{") > _MAX_DEPTH:
                _check_depth(_structure(body))
        else:
            self._check_shape(body)
        ask = ask_of(body)
        self._check_ask(ask)
        return ask

    def _check_shape(self, body: bytes) -> None:
        try:
            fields = _members.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise InvalidRequest("The body is no JSON object.") from None
        except RecursionError:
            raise _too_deep() from None
        if _may_hold_more(body, self.max_values) or body.count(b"[") + body.count(b"{") > _MAX_DEPTH:
            if body.count(b'"') > 2 * self.max_values and _quotes(body) > 2 * self.max_values:
                raise InvalidRequest(f"The body holds more than {self.max_values} strings (limits.max_body_values).")
            structure = _structure(body)
            if (values := _values_at_most(structure)) > self.max_values:
                field, most = _fullest(fields)
                raise InvalidField(
                    field,
                    f"the body holds {values} JSON values, most of them here ({most}); at most {self.max_values} are"
                    " taken (setting limits.max_body_values)",
                )
            _check_depth(structure)
        for name, raw in fields.items():
            self._check_field(name, bytes(raw))

    def _check_field(self, name: str, raw: bytes) -> None:
        if len(name) > _LONGEST_NAME:
            raise InvalidRequest(f"The name of a field has {len(name)} characters; at most {_LONGEST_NAME} are taken.")
        limit = _VALUES.get(name, _MOST_VALUES)
        if _may_hold_more(raw, limit):
            structure = _structure(raw)
            if name in _LISTS_OF_TOKENS and b"{" not in structure:
                limit = self.max_values
            if (values := _values_at_most(structure)) > limit:
                raise InvalidField(
                    name, f"holds {values} JSON values, items and what is in them; at most {limit} are taken"
                )
        longest = _CHARS.get(name)
        if longest is not None and len(raw) > longest and (chars := sum(map(len, _strings(_decoded(raw))))) > longest:
            raise InvalidField(name, f"has {chars} characters; at most {longest} are taken")

    def _check_ask(self, ask: Ask) -> None:
        if ask.model is not None and len(ask.model) > _LONGEST_NAME:
            raise InvalidField("model", f"has {len(ask.model)} characters; names have at most {_LONGEST_NAME}")
        if isinstance(ask.request_id, str) and len(ask.request_id) > _LONGEST_NAME:
            raise InvalidField("request_id", f"has {len(ask.request_id)} characters; at most {_LONGEST_NAME} are taken")
        if (refusal := ask.sequences.too_many(self.max_sequences)) is not None:
            raise InvalidField(*refusal)


@dataclass(frozen=True, slots=True)
class Texts:
    """The longest text that a body has tokenized or put into words: in which field, and how long."""

    field: str = "prompt"
    chars: int = 0
    tokens: int = 0
    cut: bool = False

    def check(self, bounds: RequestBounds, context_tokens: int, max_chars_per_token: int) -> None:
        """Raises InvalidField for what cannot fit into the context, or, where it is cut or only counted, into a bound
        of its own.
        """
        free = max(bounds.max_text_chars, _GENEROUS_CHARS_PER_TOKEN * context_tokens)
        most = free if self.cut else min(free, context_tokens * max_chars_per_token)
        if self.chars > most:
            setting = " (setting limits.max_text_chars)" if most == free else ""
            raise InvalidField(
                self.field,
                f"This model's maximum context length is {context_tokens} tokens. The text has {self.chars} characters;"
                f" at most {most} are taken{setting}.",
            )
        if self.tokens > (most_tokens := max(_MOST_IDS, context_tokens)):
            raise InvalidField("tokens", f"{self.tokens} tokens; at most {most_tokens} are taken at once")


NO_TEXTS = Texts()
_GENEROUS_CHARS_PER_TOKEN = 8  # on average over a whole context; English has four, deeply indented code five
_MOST_IDS = 64 * 1024


async def texts_of(body: bytes, path: str) -> Texts:
    """How long the texts of a body are. It may be any body that `RequestBounds.ask` took."""
    if len(body) <= _IN_THREAD_BYTES:
        return measured(body, path)
    return await _beside(measured, body, path)


def measured(body: bytes, path: str) -> Texts:
    """Blocks for milliseconds a MB."""
    fields = _fields(body)
    cut = path == "/tokenize" or fields.get("truncate_prompt_tokens", b"null") != b"null"
    if path == "/detokenize":
        return Texts("tokens", 0, fields.get("tokens", b"").count(b",") + 1, cut=True)
    longest: tuple[int, str] = (0, "prompt")
    for name in ("prompt", "input"):
        if (raw := fields.get(name)) is not None and (value := _decoded(raw)) and not _is_conversation(value):
            texts = value if isinstance(value, list) else [value]
            longest = max(longest, (max((len(text) for text in texts if isinstance(text, str)), default=0), name))
    chat = {name: _chars(fields[name]) for name in _CHAT_TEXTS if name in fields}
    if "messages" in chat or path == "/v1/responses":
        biggest = max(chat, key=lambda name: chat[name], default="messages")
        longest = max(longest, (sum(chat.values()), biggest))
    return Texts(longest[1], longest[0], 0, cut)


def _is_conversation(value: object) -> bool:
    return isinstance(value, list) and isinstance(value[0], dict)


def _fields(body: bytes) -> dict[str, bytes]:
    """The members of the body's object as they stand in it; none where it is none, which is for others to say."""
    try:
        found = _members.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return {name: bytes(raw) for name, raw in found.items()}


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _decoded(raw: bytes) -> object:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _chars(raw: bytes) -> int:
    """Of a field that a chat's prompt is rendered from. Pictures and sounds, as parts of messages, are no text."""
    value = _decoded(raw)
    if not isinstance(value, list):
        return sum(map(len, _strings(value)))
    return sum(_message_chars(message) for message in value)


def _message_chars(message: Any) -> int:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return sum(map(len, _strings(message)))
    # A part is told by its type, and only where parts are: elsewhere, say in a tool's schema, templates write it down.
    chars = sum(map(len, _strings({**message, "content": None})))
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_result":
            chars += _message_chars(part)
        elif not (isinstance(kind, str) and kind in _MEDIA):
            chars += sum(map(len, _strings(part)))
    return chars


def _strings(value: Any) -> Iterator[str]:
    """Every text in a value."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            pending.extend(one)
        elif isinstance(one, dict):
            for name, inner in one.items():
                if len(name) > _LONG_KEY:
                    yield name
                pending.append(inner)


def _values_at_most(raw: bytes) -> int:
    """As many values as there can be in some JSON: commas and brackets in its strings are counted too."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _may_hold_more(raw: bytes, values: int) -> bool:
    """Each takes two bytes at least, with its comma or its bracket's other half."""
    return len(raw) > 2 * values and _values_at_most(raw) > values


def _values(raw: bytes) -> int:
    return _values_at_most(_structure(raw))


def _fullest(fields: Mapping[str, msgspec.Raw]) -> tuple[str, int]:
    counts = {name: _values(bytes(raw)) for name, raw in fields.items()}
    name = max(counts, key=lambda one: counts[one])
    return name[:_LONGEST_NAME], counts[name]


def _unescaped(raw: bytes) -> bytes:
    """Of the same length, without quotes that end no string."""
    return raw.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in raw else raw


def _quotes(raw: bytes) -> int:
    return _unescaped(raw).count(b'"')


def _structure(raw: bytes) -> bytes:
    """Some JSON without what is in its strings."""
    return b"".join(_unescaped(raw).split(b'"')[::2])


def _check_depth(structure: bytes) -> None:
    """Raises InvalidRequest. Takes innermost pairs away until none is left."""
    pieces = range(0, len(structure), _PIECE_BYTES)
    brackets = b"".join(structure[at : at + _PIECE_BYTES].translate(_BRACKETS_ALIKE, _NO_BRACKETS) for at in pieces)
    for _ in range(_MAX_DEPTH):
        fewer = brackets.replace(b"[]", b"")
        if len(fewer) == len(brackets):  # none is left, or it is no JSON, which the parser will say
            return
        brackets = fewer
    if b"[]" in brackets:
        raise _too_deep()


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The body is nested too deeply: more than {_MAX_DEPTH} levels.")
