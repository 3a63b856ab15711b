"""docs/reference/examples.md: what a server answered on each route (`reference.record` asks one).

Answers are shortened: long strings and lists are cut, and objects deep inside a large answer are left out.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference.example_calls import WITHOUT, Call

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "examples.md"
_HEAD = """# Example answers

Asked of a server with the demo models by `make examples`, in this order; a test compares their fields with what a
server answers today. [Routes](api.md) has all fields. Long strings, lists and answers are cut where an `…` stands.
"""
_LONGEST_STRING, _LONGEST_LIST, _MOST_LINES = 120, 2, 48
_JSON = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Example:
    call: Call
    asked: str
    status: int
    answer: str
    is_json: bool


def shortened(answer: Any) -> str:
    """JSON of at most `_MOST_LINES` lines where leaving out what lies deep is enough for that."""
    for depth in range(_DEEPEST, 0, -1):
        text = json.dumps(_cut(answer, depth), indent=2, ensure_ascii=False)
        if text.count("\n") < _MOST_LINES:
            break
    return text


def _cut(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_STRING else value[:_LONGEST_STRING] + "…"
    if not value or not isinstance(value, dict | list):
        return value
    if depth == 0:
        return "{…}" if isinstance(value, dict) else "[…]"
    if isinstance(value, dict):
        return {key: _cut(each, depth - 1) for key, each in value.items()}
    left_out = ["…"] if len(value) > _LONGEST_LIST else []
    return [_cut(each, depth - 1) for each in value[:_LONGEST_LIST]] + left_out


def first_lines(text: str, count: int) -> str:
    lines = [line if len(line) <= 400 else line[:400] + "…" for line in text.rstrip().splitlines()]
    return "\n".join(lines[:count] + (["…"] if len(lines) > count else []))


def page(examples: list[Example]) -> str:
    parts = [_HEAD]
    for example in examples:
        parts.append(f"## {example.call.route}\n")
        parts.append(f"```text\n{example.asked}\n```\n")
        answer = example.answer or "(no body)"
        parts.append(f"{example.status}:\n\n```{'json' if example.is_json else 'text'}\n{answer}\n```\n")
    parts.append("## Without an example\n")
    parts.append("| route | why |\n|---|---|")
    parts += [f"| `{route}` | {why} |" for route, why in WITHOUT.items()]
    return "\n".join(parts) + "\n"


def answers(text: str) -> dict[str, Any]:
    """The JSON answers of the page, by route: the first of each."""
    found: dict[str, Any] = {}
    for section in text.split("\n## ")[1:]:
        route = section.splitlines()[0]
        if (match := _JSON.search(section)) is not None:
            found.setdefault(route, json.loads(match[1]))
    return found
