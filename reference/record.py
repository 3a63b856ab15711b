"""`python -m reference.record` (`make examples`): starts a server, asks it and writes docs/reference/examples.md."""

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from benchmarks.processes import stepserve
from reference.example_calls import CALLS, EARLY, EARLY_FILES, Call
from reference.examples import PAGE, REPOSITORY, Example, first_lines, page, shortened

_ENDS = {"done", "failed", "cancelled", "completed"}


def record() -> list[Example]:
    """Starts a server on a base directory of its own.

    Raises RuntimeError at the first call that is answered unexpectedly.
    """
    with tempfile.TemporaryDirectory(prefix="stepserve-examples-") as folder:
        base = Path(folder)
        shutil.copytree(REPOSITORY / "demo" / "checkpoints" / EARLY_FILES, base / "models" / EARLY)
        with (
            stepserve(base, traffic__on="true", traffic__without_keys="true") as url,
            httpx.Client(base_url=url, timeout=300, trust_env=False) as http,
        ):
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
        is_json = response.headers.get("content-type", "").partition(";")[0] == "application/json"
        answer = shortened(response.json()) if is_json else first_lines(response.text, call.lines)
        return Example(call, self._public(asked), response.status_code, self._public(answer), is_json)

    def _public(self, text: str) -> str:
        for private, public in self._private.items():
            text = text.replace(private, public)
        return text if "secret" not in self._saved else text.replace(self._saved["secret"], "sy_…")


def _at(response: httpx.Response, place: str) -> Any:
    if place.startswith("header:"):
        return response.headers[place.removeprefix("header:")]
    value = response.json()
    for step in place.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


if __name__ == "__main__":
    PAGE.write_text(page(record()))
