"""How long the texts of a request are, which its model's context or a setting bounds before they are tokenized."""

from dataclasses import dataclass
from typing import Any

from gateway.errors import InvalidField
from gateway.request.body import RequestBody
from gateway.request.json_shape import IN_THREAD_BYTES, beside, strings

# What a chat's prompt is rendered from. `tools` count, since templates write them into the prompt.
_CHAT_TEXTS = ("messages", "system", "instructions", "input", "tools", "documents", "chat_template_kwargs")
_MEDIA = frozenset(
    {
        "image_url", "image", "input_image", "image_embeds", "audio_url", "input_audio", "audio_embeds", "video_url",
        "prompt_embeds",
    }
)  # fmt: skip

_GENEROUS_CHARS_PER_TOKEN = 8  # on average over a whole context; English has four, deeply indented code five
_MOST_IDS = 64 * 1024


@dataclass(frozen=True, slots=True)
class Texts:
    """The longest text that a body has tokenized or put into words: in which field, and how long."""

    field: str = "prompt"
    chars: int = 0
    tokens: int = 0
    cut: bool = False

    def check(self, max_text_chars: int, context_tokens: int, max_chars_per_token: int) -> None:
        """Raises InvalidField for what cannot fit into the context, or, where it is cut or only counted, into a bound
        of its own (`max_text_chars`, or a few times the context).
        """
        free = max(max_text_chars, _GENEROUS_CHARS_PER_TOKEN * context_tokens)
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


async def texts_of(body: RequestBody, path: str) -> Texts:
    """How long the texts of a body are. It may be any body that `gateway.request.bounds` let pass."""
    if len(body.raw) <= IN_THREAD_BYTES:
        return measured(body, path)
    return await beside(measured, body, path)


def measured(body: RequestBody, path: str) -> Texts:
    """Blocks for milliseconds a MB."""
    cut = path == "/tokenize" or body.text_of("truncate_prompt_tokens") not in (b"", b"null")
    if path == "/detokenize":
        return Texts("tokens", 0, body.text_of("tokens").count(b",") + 1, cut=True)
    longest: tuple[int, str] = (0, "prompt")
    for name in ("prompt", "input"):
        if (value := body.value(name)) and not _is_conversation(value):
            texts = value if isinstance(value, list) else [value]
            longest = max(longest, (max((len(text) for text in texts if isinstance(text, str)), default=0), name))
    chat = {name: _chars(body.value(name)) for name in _CHAT_TEXTS if name in body.members}
    if "messages" in chat or path == "/v1/responses":
        biggest = max(chat, key=lambda name: chat[name], default="messages")
        longest = max(longest, (sum(chat.values()), biggest))
    return Texts(longest[1], longest[0], 0, cut)


def _is_conversation(value: object) -> bool:
    return isinstance(value, list) and isinstance(value[0], dict)


def _chars(value: object) -> int:
    """Of a field that a chat's prompt is rendered from. Pictures and sounds, as parts of messages, are no text."""
    if not isinstance(value, list):
        return sum(map(len, strings(value)))
    return sum(_message_chars(message) for message in value)


def _message_chars(message: Any) -> int:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return sum(map(len, strings(message)))
    # A part is told by its type, and only where parts are: elsewhere, say in a tool's schema, templates write it down.
    chars = sum(map(len, strings({**message, "content": None})))
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_result":
            chars += _message_chars(part)
        elif kind is None and isinstance(part, dict):
            chars += sum(map(len, strings({name: each for name, each in part.items() if name not in _MEDIA})))
        elif not (isinstance(kind, str) and kind in _MEDIA):
            chars += sum(map(len, strings(part)))
    return chars
