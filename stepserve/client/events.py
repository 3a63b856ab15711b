"""Server-sent events, out of the bytes that come, and what the server says by them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from stepserve.client.errors import Unavailable
from stepserve.client.results import Job, JobNews


@dataclass(slots=True)
class EventReader:
    """`feed` takes what has come and gives the events that are whole now: name ("" where it has none) and data.

    A line ends where the protocol says. httpx's own lines also end at every character that Unicode calls a line's end,
    which JSON leaves as it is, and which a model may say.
    """

    _name: str = ""
    _data: list[str] = field(default_factory=list)
    _rest: bytes = b""

    def feed(self, piece: bytes) -> Iterator[tuple[str, str]]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            event = self._take(line.removesuffix(b"\r").decode(errors="replace"))
            if event is not None:
                yield event

    def _take(self, line: str) -> tuple[str, str] | None:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._name = value
            elif name == "data":
                self._data.append(value)
            return None
        event = (self._name, "\n".join(self._data)) if self._data else None
        self._name, self._data = "", []
        return event


def is_event_stream(answer: httpx.Response) -> bool:
    return answer.is_success and answer.headers.get("content-type", "").startswith("text/event-stream")


def news_of(name: str, data: str) -> JobNews | None:
    """None for events that say nothing of the job. Raises Unavailable when the event says that the stream broke."""
    match name:
        case "state":
            job = Job.model_validate_json(data)
            return JobNews(status=job.status, progress=job.progress, job=job)
        case "progress":
            return JobNews.model_validate_json(data)
        case "error":
            raise Unavailable(503, str(json.loads(data).get("detail", "the stream broke")), None)
        case _:
            return None


def chat_piece(data: str) -> str | None:
    """The new text of a chunk. Raises Unavailable when it says that the generation failed."""
    if data == "[DONE]":
        return None
    chunk = json.loads(data)
    if "error" in chunk:
        raise Unavailable(503, str(chunk["error"].get("message", "the generation failed")), None)
    delta = chunk["choices"][0]["delta"] if chunk.get("choices") else {}
    piece: str | None = delta.get("content")
    return piece
