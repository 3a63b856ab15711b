"""docs/reference/examples.md: what a server answered on each route. `make examples` starts one and asks it.

Answers are shortened: long strings and lists are cut, and objects deep inside a large answer are left out.
"""

import json
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.processes import stepserve
from reference.example_calls import CALLS, EARLY, EARLY_FILES, WITHOUT, Call

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "examples.md"
_HEAD = """# Example answers

Asked of a server with the demo models by `make examples`, in this order; a test compares their fields with what a
server answers today. [Routes](api.md) has all fields. Long strings, lists and answers are cut where an `…` stands.
"""
_ENDS = {"done", "failed", "cancelled", "completed"}
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


def record() -> list[Example]:
    """Starts a server on a base directory of its own.

    Raises RuntimeError at the first call that is answered unexpectedly.
    """
    with tempfile.TemporaryDirectory(prefix="stepserve-examples-") as folder:
        base = Path(folder)
        shutil.copytree(REPOSITORY / "demo" / "checkpoints" / EARLY_FILES, base / "models" / EARLY)
        settings = {"traffic__on": "true", "traffic__without_keys": "true"}
        with stepserve(base, **settings) as url, httpx.Client(base_url=url, timeout=300, trust_env=False) as http:
            return list(
                _Recorder(http, {str(base): "/home/you/llm", str(REPOSITORY): "/home/you/stepserve"}).examples()
            )


class _Recorder:
    """`private` maps what only this machine has to what stands in the page."""

    def __init__(self, http: httpx.Client, private: Mapping[str, str]) -> None:
        self._http = http
        self._private = {**private, socket.gethostname(): "inference-1", str(http.base_url.port): "8765"}
        self._saved: dict[str, str] = {}

    def examples(self) -> Iterator[Example]:
        for call in CALLS:
            response = self._answer(call)
            for name, place in call.saved.items():
                self._saved[name] = str(_at(response, place))
            if "secret" in self._saved:
                self._http.headers["authorization"] = f"Bearer {self._saved['secret']}"
            if call.shown:
                yield self._example(call, response)

    def _answer(self, call: Call) -> httpx.Response:
        method, route = call.route.split()
        path = self._filled(call.path or route)
        body = None if call.body is None else json.loads(self._filled(json.dumps(call.body)))
        request = self._http.build_request(method, path, json=body)
        if call.form:
            files = {"file": ("requests.jsonl", call.text or "")}
            request = self._http.build_request(method, path, data=dict(call.form), files=files)
        elif call.text is not None:
            request = self._http.build_request(method, path, content=call.text)
        deadline = time.monotonic() + 600
        while True:
            response = self._http.send(request)
            expected = response.status_code == call.status if call.status else response.is_success
            if not expected:
                raise RuntimeError(f"{method} {path} was answered with {response.status_code}: {response.text}")
            if not call.until_done or response.json()["status"] in _ENDS:
                return response
            if time.monotonic() > deadline:
                raise RuntimeError(f"{method} {path} is not over after ten minutes: {response.text}")
            time.sleep(0.2)

    def _filled(self, text: str) -> str:
        for name, value in self._saved.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def _example(self, call: Call, response: httpx.Response) -> Example:
        method, route = call.route.split()
        asked = f"{method} {self._filled(call.path or route)}"
        if call.body is not None:
            asked += "\n" + self._filled(json.dumps(call.body, indent=2, ensure_ascii=False))
        elif call.text is not None:
            asked += "\n" + call.text.rstrip()
        is_json = response.headers.get("content-type", "").startswith("application/json")
        answer = shortened(response.json()) if is_json else _first_lines(response.text, call.lines)
        return Example(call, self._public(asked), response.status_code, self._public(answer), is_json)

    def _public(self, text: str) -> str:
        for private, public in self._private.items():
            text = text.replace(private, public)
        return text if "secret" not in self._saved else text.replace(self._saved["secret"], "sk-…")


def _at(response: httpx.Response, place: str) -> Any:
    if place.startswith("header:"):
        return response.headers[place.removeprefix("header:")]
    value = response.json()
    for step in place.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


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


def _first_lines(text: str, count: int) -> str:
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


if __name__ == "__main__":
    PAGE.write_text(page(record()))
