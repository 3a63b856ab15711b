"""What is compared of an answer: its status, its envelope and its shape, and its text where it must be the same."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx

Json = dict[str, Any]
_AT_ONCE = 16
_SAME_WORDS = ("type", "code", "param")


async def outcomes(url: str, requests: Sequence[Json]) -> dict[str, Json]:
    """By the request's name."""
    places = asyncio.Semaphore(_AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=240, trust_env=False) as http:

        async def one(request: Json) -> tuple[str, Json]:
            async with places:
                return request["name"], await _outcome(http, request)

        return dict(await asyncio.gather(*map(one, requests)))


async def _outcome(http: httpx.AsyncClient, request: Json) -> Json:
    given = request.get("raw", "").encode() if "hex" not in request else bytes.fromhex(request["hex"])
    headers = request.get("headers")
    if "body" in request:
        given = json.dumps(request["body"]).encode()
    if headers is None and request["method"] == "POST":
        headers = {"content-type": "application/json"}
    try:
        answer = await http.request(request["method"], request["path"], content=given, headers=headers)
    except httpx.HTTPError as error:
        return {"failed": type(error).__name__}
    kind = answer.headers.get("content-type", "").partition(";")[0]
    return {"status": answer.status_code, "kind": kind, **_content(kind, answer.text)}


def _content(kind: str, text: str) -> Json:
    if kind == "text/event-stream":
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        events = [json.loads(line) for line in lines if line != "[DONE]"]
        texts = "".join(sorted(_texts(events))) if _mixes(events) else "".join(_texts(events))
        return {"events": _kinds([_shape(event) for event in events]), "done": "[DONE]" in lines, "text": texts}
    try:
        content = json.loads(text)
    except ValueError:
        return {"body": bool(text)}
    error = content.get("error") if isinstance(content, dict) else None
    words = {name: error.get(name) for name in _SAME_WORDS} if isinstance(error, dict) else {}
    return {"shape": _shape(content), "error": words, "text": "".join(_texts(content))}


def _shape(value: Any) -> Any:
    """Keys and kinds of values; of a list each kind of element once."""
    if isinstance(value, dict):
        return {key: _shape(each) for key, each in sorted(value.items())}
    if isinstance(value, list):
        shapes: list[Any] = []
        for each in value:
            if (shape := _shape(each)) not in shapes:
                shapes.append(shape)
        return shapes
    return type(value).__name__


def _kinds(shapes: Sequence[Any]) -> dict[str, list[str]]:
    """The kinds of values at each place, over all events: how many tokens share one is no difference."""
    found: dict[str, set[str]] = {}

    def look(shape: Any, place: str) -> None:
        if isinstance(shape, dict):
            for key, each in shape.items():
                look(each, f"{place}.{key}")
        elif isinstance(shape, list):
            for each in shape:
                look(each, f"{place}[]")
        else:
            found.setdefault(place, set()).add(shape)

    for shape in shapes:
        look(shape, "")
    return {place: sorted(kinds - {"NoneType"} or kinds) for place, kinds in sorted(found.items())}


def _mixes(events: Sequence[Any]) -> bool:
    """Whether several answers come in one stream, in whatever order."""
    return any(choice.get("index") for event in events for choice in event.get("choices") or ())


def _texts(value: Any) -> list[str]:
    """What a model has said, wherever it stands."""
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    if not isinstance(value, dict):
        return []
    own = [value[name] for name in ("content", "text", "delta") if isinstance(value.get(name), str)]
    return own + [text for name, each in value.items() if name != "error" for text in _texts(each)]


def differing(theirs: Json, ours: Json) -> Json:
    """The parts of the outcome that differ: [bare vLLM's, ours]."""
    names = sorted(theirs.keys() | ours.keys())
    return {name: [theirs.get(name), ours.get(name)] for name in names if theirs.get(name) != ours.get(name)}
