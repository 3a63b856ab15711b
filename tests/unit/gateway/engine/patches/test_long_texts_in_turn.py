"""Whose texts are tokenized when."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.engine.patches.long_texts_in_turn import long_texts_in_turn


class Renderer:
    """Its one thread takes texts in the order in which they come, each when told."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.next = asyncio.Semaphore(0)
        self._thread = asyncio.Lock()
        self.tokenize_prompts_async: Any = self._at_once

    async def _at_once(self, prompts: list[dict[str, Any]], _params: Any) -> list[Any]:
        return await asyncio.gather(*(self._one(prompt) for prompt in prompts))

    async def _one(self, prompt: dict[str, Any]) -> Any:
        name = prompt.get("prompt", "")[:1]
        self.waiting.append(name)
        async with self._thread:
            await self.next.acquire()
        self.waiting.remove(name)
        return SimpleNamespace(name=name)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_short_text_waits_for_one_long_text_at_most() -> None:
    async def scenario() -> None:
        renderer = Renderer()
        long_texts_in_turn(renderer)

        def ask(*prompts: str) -> asyncio.Task[Any]:
            return asyncio.create_task(renderer.tokenize_prompts_async([{"prompt": text} for text in prompts], None))

        many = ask("a" * 50_000, "b" * 50_000, "c" * 50_000)
        another = ask("d" * 70_000)
        await settled()
        assert renderer.waiting == ["a"]
        short = ask("s")
        await settled()
        assert renderer.waiting == ["a", "s"]
        renderer.next.release()
        await settled()
        assert renderer.waiting == ["s", "d"], "and the other request has its turn"
        for _ in range(4):
            renderer.next.release()
            await settled()
        assert [each.name for each in await short] == ["s"]
        assert [each.name for each in await many] == ["a", "b", "c"], "in the order of the prompts"
        assert [each.name for each in await another] == ["d"]

    asyncio.run(scenario())


async def test_who_leaves_keeps_the_turn_until_the_thread_is_free() -> None:
    renderer = Renderer()
    long_texts_in_turn(renderer)
    first, second, third = (
        asyncio.create_task(renderer.tokenize_prompts_async([{"prompt": name * 70_000}], None)) for name in "abc"
    )
    await settled()
    first.cancel()
    second.cancel()
    await settled()
    assert first.cancelled()
    assert renderer.waiting == ["a"], "no other beside it"
    renderer.next.release()
    await settled()
    assert renderer.waiting == ["c"]
    renderer.next.release()
    assert [each.name for each in await third] == ["c"]


async def test_a_text_that_cannot_be_tokenized() -> None:
    async def refused(_prompts: Any, _params: Any) -> Any:
        raise ValueError("no text")

    renderer = SimpleNamespace(tokenize_prompts_async=refused)
    long_texts_in_turn(renderer)
    for _ in range(2):
        with pytest.raises(ValueError, match="no text"):
            await renderer.tokenize_prompts_async([{"prompt": "x" * 70_000}], None)


async def test_prompts_of_tokens_have_no_text() -> None:
    renderer = Renderer()
    long_texts_in_turn(renderer)
    renderer.next.release()
    prompts = [{"prompt_token_ids": list(range(100_000))}]
    assert len(await renderer.tokenize_prompts_async(prompts, None)) == 1
