"""What is left of a large request that was refused: nothing, without the garbage collector, which comes seldom.

One object that leads back to itself keeps the whole body, so a client could fill the memory with refusals alone.
"""

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.request.body import RequestBody
from tests.eventually import eventually
from tests.integration import misbehaving, test_upstream
from tests.integration.full_stack import MODEL, FullStack, run_story
from tests.integration.misbehaving import Upstream

LARGE_BYTES = 100_000
TEXT = "ab " * 700_000
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SAID = [{"role": "user", "content": TEXT}]
REFUSED: dict[str, tuple[str, dict[str, Any] | bytes, int]] = {
    "counted": ("/tokenize", {"prompt": TEXT}, 400),
    "too long": (CHAT, {"messages": SAID}, 400),
    "too many answers": (COMPLETIONS, {"prompt": TEXT, "n": 16_384}, 400),
    "too many values": (COMPLETIONS, {"prompt": [1.5] * 1_000_000}, 400),
    "a large expression": (CHAT, {"messages": [], "structured_outputs": {"regex": TEXT}}, 400),
    "no such model": (CHAT, {"model": "nowhere", "messages": SAID}, 404),
    "no JSON": (COMPLETIONS, b"[" * 2_000_000, 400),
    "Anthropic": ("/v1/messages", {"messages": SAID, "max_tokens": 1}, 400),
    "Ollama": ("/api/generate", {"prompt": TEXT, "stream": False}, 400),
    "Ollama, streamed": ("/api/chat", {"messages": SAID}, 400),
    "our own": ("/generate", {"prompt": TEXT}, 400),
    "solve": ("/solve/math", {"problem": TEXT}, 400),
}


@pytest.fixture
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def large_bodies() -> list[int]:
    """The lengths of those there are."""
    lengths = [len(each.raw) for each in gc.get_objects() if type(each) is RequestBody]
    return [length for length in lengths if length > LARGE_BYTES]


async def nothing_is_left() -> None:
    await eventually(large_bodies, lambda lengths: not lengths)


@pytest.mark.usefixtures("_uncollected")
@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_nothing_is_left_of_a_refused_request(tmp_path: Path, connection: str) -> None:
    """While its connection is kept for the next one, and when that is closed."""

    async def story(there: FullStack) -> None:
        headers = {"content-type": "application/json", "connection": connection}
        for which, (path, body, status) in REFUSED.items():
            content = body if isinstance(body, bytes) else json.dumps({"model": MODEL, **body}).encode()
            answer = await there.http.post(path, content=content, headers=headers)
            assert answer.status_code == status, (which, answer.text[:300])
            await nothing_is_left()

    run_story(tmp_path, story)


@pytest.mark.usefixtures("_uncollected")
def test_nothing_is_left_of_a_request_that_another_host_fails(tmp_path: Path) -> None:
    async def story(there: FullStack, _: list[Upstream]) -> None:
        assert (await test_upstream.ask(there, messages=SAID)).status_code == 502
        await nothing_is_left()

    test_upstream.run_story(tmp_path, story, misbehaving.dies)
