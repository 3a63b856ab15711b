"""Formats of a conversation whose last turn is the reference: OpenAI messages, ShareGPT, TRL's prompt/completion."""

from typing import Any

from evals.formats.content import Content, Fields, Format
from evals.formats.fields import answer, kind_of, not_blank, text
from evals.sample import BrokenLine, Turn

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
}


def turns_of(fields: Fields, name: str) -> list[Turn]:
    """At least one message with a role and text. Raises BrokenLine."""
    turns = fields[name]
    if not isinstance(turns, list) or not turns:
        raise BrokenLine(f"{name!r} must be a list with at least one message")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise BrokenLine(f"message {number} must be an object with a 'role'")
        if not isinstance(turn.get("content"), str):
            raise BrokenLine(f"message {number} must have text as 'content', not {kind_of(turn.get('content'))}")
    return turns


def _messages(fields: Fields) -> Content:
    turns = turns_of(fields, "messages")
    if "answer" not in fields:
        return _until_the_last(turns, "it has no 'answer' and does not end with an assistant's message")
    if turns[-1]["role"] == "assistant":
        raise BrokenLine("ambiguous: it has an 'answer' and also ends with an assistant's message")
    return Content(input=turns, target=answer(fields, "answer"))


def _sharegpt(fields: Fields) -> Content:
    said = fields["conversations"]
    if not isinstance(said, list) or not said:
        raise BrokenLine("'conversations' must be a list with at least one turn")
    turns = [_turn(number, one) for number, one in enumerate(said, start=1)]
    return _until_the_last(turns, "'conversations' does not end with a turn of gpt")


def _turn(number: int, said: Any) -> Turn:
    if not isinstance(said, dict) or not isinstance(said.get("value"), str):
        raise BrokenLine(f"turn {number} must be an object with 'from' and a text 'value'")
    role = _ROLES.get(str(said.get("from")).lower())
    if role is None:
        raise BrokenLine(f"turn {number} is from {str(said.get('from'))[:40]!r}; known are {', '.join(_ROLES)}")
    return {"role": role, "content": said["value"]}


def _prompt_completion(fields: Fields) -> Content:
    if not isinstance(fields["prompt"], list):
        return Content(input=text(fields, "prompt"), target=text(fields, "completion"), is_prompt=True)
    answers = turns_of(fields, "completion")
    if len(answers) != 1 or answers[0]["role"] != "assistant":
        raise BrokenLine("'completion' must be one assistant's message")
    return Content(input=turns_of(fields, "prompt"), target=not_blank(answers[0]["content"], "'completion'"))


def _until_the_last(turns: list[Turn], otherwise: str) -> Content:
    if turns[-1]["role"] != "assistant":
        raise BrokenLine(otherwise)
    if len(turns) == 1:
        raise BrokenLine("nothing comes before the assistant's message")
    return Content(input=turns[:-1], target=not_blank(turns[-1]["content"], "the last message"))


FORMATS = (
    Format("messages", frozenset({"messages"}), frozenset({"answer"}), _messages),
    Format("sharegpt", frozenset({"conversations"}), frozenset(), _sharegpt),
    Format("prompt_completion", frozenset({"prompt", "completion"}), frozenset(), _prompt_completion),
)
