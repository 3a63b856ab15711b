"""Whether an engine's tokenizer and chat template are those that a reference was made with."""

from collections.abc import Sequence
from typing import Protocol

from stepserve.contract import Encoding

_SHOWN_CHARACTERS = 40


class Tokenizer(Protocol):
    """Of transformers' tokenizers."""

    @property
    def chat_template(self) -> object: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> object: ...


def encoded_otherwise(tokenizer: Tokenizer, encodings: Sequence[Encoding]) -> str | None:
    """What the first of them comes out as that does not come out as it must, for a person; None when all do.

    Raises what a chat template raises.
    """
    for encoding in encodings:
        if encoding.messages is None:
            text = encoding.text or ""
            found = tokenizer.encode(text)
        elif tokenizer.chat_template is None:
            return "there is no chat template here, and the reference was made with one"
        else:
            text = str(tokenizer.apply_chat_template(encoding.messages, tokenize=False, add_generation_prompt=True))
            found = tokenizer.encode(text, add_special_tokens=False)
        if list(found) != encoding.token_ids:
            maker = "the tokenizer makes" if encoding.messages is None else "the chat template and tokenizer make"
            shown = text[:_SHOWN_CHARACTERS]
            return f"{maker} other tokens of {shown!r} than the reference says: {_apart(found, encoding)}"
    return None


def _apart(found: Sequence[int], encoding: Encoding) -> str:
    expected = encoding.token_ids
    for place, (mine, theirs) in enumerate(zip(found, expected, strict=False)):
        if mine != theirs:
            return f"token {place} is {mine} instead of {theirs}"
    return f"{len(found)} tokens instead of {len(expected)}"
