"""A client that streams one short chat after the other in a process of its own, and notes how each of them went."""

import contextlib
import json
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import httpx

_LIMIT_S = 120.0
_QUESTION, _ANSWER = "What is 17+25?", "42"


@dataclass(frozen=True, slots=True)
class Asked:
    """One chat. Times are those of `time.monotonic`, which all processes of a machine share."""

    started_s: float
    first_token_s: float
    """From the request to the first piece of its answer."""
    error: str = ""


class PoliteClient:
    """`asked` returns what has ended since the last call."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def asked(self) -> list[Asked]:
        found = []
        while self._pipe.poll():
            found.append(self._pipe.recv())
        return found


@contextlib.contextmanager
def polite_client(url: str, model: str, key: str | None = None) -> Iterator[PoliteClient]:
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_ask_on, args=(url, model, key, writer), daemon=True)
    process.start()
    try:
        yield PoliteClient(reader)
    finally:
        process.terminate()
        process.join()


def _ask_on(url: str, model: str, key: str | None, pipe: Connection) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, timeout=_LIMIT_S, trust_env=False, headers=headers) as http:
        while True:
            pipe.send(_ask(http, model))
            time.sleep(0.02)  # polite: one at a time, with a pause


def _ask(http: httpx.Client, model: str) -> Asked:
    messages = [{"role": "user", "content": _QUESTION}]
    body = {"model": model, "messages": messages, "temperature": 0, "stream": True}
    started = time.monotonic()
    first = 0.0
    lines = []
    try:
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                return Asked(started, time.monotonic() - started, f"{response.status_code} {response.read()[:200]!r}")
            for line in response.iter_lines():
                if line.startswith("data: ") and not first:
                    first = time.monotonic() - started
                lines.append(line)
    except httpx.TransportError as error:
        return Asked(started, time.monotonic() - started, f"{type(error).__name__}: {error}")
    text = "".join(_pieces(lines))
    return Asked(started, first, "" if text == _ANSWER else f"answered {text!r}")


def _pieces(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith("data: {"):
            for choice in json.loads(line[6:]).get("choices", ()):
                yield choice["delta"].get("content") or ""
