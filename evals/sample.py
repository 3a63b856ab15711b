"""One line of a dataset: recognised by its set of keys, checked, and made a sample.

| format            | keys                  | asked as             | reference                                        |
|-------------------|-----------------------|----------------------|--------------------------------------------------|
| `question_answer` | `question`, `answer`  | a user's turn        | `answer`                                         |
| `prompt_answer`   | `prompt`, `answer`    | a plain completion   | `answer`                                         |
| `messages`        | `messages`, `answer`? | these turns          | `answer`; without it the last turn (assistant's) |

`answer` is text or a number; `id` (text or a whole number) defaults to the line's number. Other keys are kept as
`metadata` and change nothing.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

DatasetFormat = Literal["question_answer", "prompt_answer", "messages"]

_FORMAT_OF_KEY: dict[str, DatasetFormat] = {
    "question": "question_answer",
    "prompt": "prompt_answer",
    "messages": "messages",
}
_KNOWN_KEYS = {*_FORMAT_OF_KEY, "answer", "id"}
_LONGEST_ID = 256
_EXPECTED = '{"question", "answer"}, {"prompt", "answer"} or {"messages"}'

Turn = dict[str, Any]


class BrokenLine(Exception):
    """Why a line is no sample; whoever reads the file adds its name and the line's number."""


@dataclass(frozen=True, slots=True)
class Sample:
    """`index` counts samples from 0; `input` is text, or the turns of a conversation that awaits an answer."""

    id: str
    index: int
    format: DatasetFormat
    input: str | list[Turn]
    target: str
    metadata: dict[str, Any]


def parse_sample(raw: bytes, *, line: int, index: int) -> Sample:
    """Makes a sample of a line that is not blank. Raises BrokenLine."""
    fields = _decode(raw)
    found = [key for key in _FORMAT_OF_KEY if key in fields]
    if not found:
        raise BrokenLine(f"its keys {_listed(fields)} are none of {_EXPECTED}")
    if len(found) > 1:
        raise BrokenLine(f"ambiguous: it has {' and '.join(repr(key) for key in found)}")
    key = found[0]
    content: str | list[Turn]
    if key == "messages":
        content, target = _conversation(fields)
    else:
        content, target = _text(fields, key), _answer(fields)
    return Sample(
        id=_id(fields, line),
        index=index,
        format=_FORMAT_OF_KEY[key],
        input=content,
        target=target,
        metadata={name: value for name, value in fields.items() if name not in _KNOWN_KEYS},
    )


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair passes json.loads
    except UnicodeDecodeError as error:
        raise BrokenLine(f"not UTF-8 (byte {error.start + 1} of the line)") from error
    except UnicodeEncodeError as error:
        raise BrokenLine("not Unicode text: half of a surrogate pair") from error
    except json.JSONDecodeError as error:
        raise BrokenLine(f"broken JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise BrokenLine(f"broken JSON: {error}") from error
    if not isinstance(value, dict):
        raise BrokenLine(f"not a JSON object but {_kind(value)}")
    return value


def _conversation(fields: dict[str, Any]) -> tuple[list[Turn], str]:
    turns = fields["messages"]
    if not isinstance(turns, list) or not turns:
        raise BrokenLine("'messages' must be a list with at least one message")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise BrokenLine(f"message {number} must be an object with a 'role'")
        if not isinstance(turn.get("content"), str):
            raise BrokenLine(f"message {number} must have text as 'content', not {_kind(turn.get('content'))}")
    ends_with_answer = turns[-1]["role"] == "assistant"
    if "answer" in fields:
        if ends_with_answer:
            raise BrokenLine("ambiguous: it has an 'answer' and also ends with an assistant's message")
        return turns, _answer(fields)
    if not ends_with_answer:
        raise BrokenLine("it has no 'answer' and does not end with an assistant's message")
    if len(turns) == 1:
        raise BrokenLine("nothing comes before the assistant's message")
    return turns[:-1], _not_blank(turns[-1]["content"], "the last message")


def _answer(fields: dict[str, Any]) -> str:
    if "answer" not in fields:
        raise BrokenLine(f"'answer' is missing; its keys are {_listed(fields)}")
    value = fields["answer"]
    if isinstance(value, float) and not math.isfinite(value):
        raise BrokenLine("'answer' is a number too large")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _text(fields, "answer")


def _id(fields: dict[str, Any], line: int) -> str:
    if "id" not in fields:
        return str(line)
    value = fields["id"]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = _text(fields, "id")
    if len(text) > _LONGEST_ID:
        raise BrokenLine(f"'id' is longer than {_LONGEST_ID} characters")
    return text


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str):
        raise BrokenLine(f"{key!r} must be text, not {_kind(value)}")
    return _not_blank(value, repr(key))


def _not_blank(text: str, what: str) -> str:
    if not text.strip():
        raise BrokenLine(f"{what} is blank")
    return text


def _listed(fields: dict[str, Any]) -> str:
    return "{" + ", ".join(json.dumps(key, ensure_ascii=False)[:40] for key in list(fields)[:10]) + "}"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
