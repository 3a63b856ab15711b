"""Keeps a part of an engine free of batch work, so that a person's request never waits for a long generation to end.

vLLM serves lower priorities first, but it takes no sequence away from a request that runs: with all of them given to
batch work, the next chat would wait until one of those ends.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from switchyard.contract import BATCH_PRIORITY

_SHARE_KEPT = 16  # one sequence in so many is for others than batch work
Generate = Callable[..., AsyncGenerator[Any, None]]


def batch_room(max_num_seqs: int) -> int:
    """How many sequences batch work may have at once; all of it where there is but one."""
    return max(1, max_num_seqs - max(1, max_num_seqs // _SHARE_KEPT))


def with_room(generate: Generate, max_num_seqs: int) -> Generate:
    """`generate` of an engine, where requests of batch priority wait their turn before the engine hears of them."""
    room = asyncio.Semaphore(batch_room(max_num_seqs))

    def generate_in_turn(*arguments: Any, priority: int = 0, **rest: Any) -> AsyncGenerator[Any, None]:
        outputs = generate(*arguments, priority=priority, **rest)
        return outputs if priority < BATCH_PRIORITY else _in_turn(outputs, room)

    return generate_in_turn


async def _in_turn(outputs: AsyncGenerator[Any, None], room: asyncio.Semaphore) -> AsyncGenerator[Any, None]:
    async with room:
        try:
            async for output in outputs:
                yield output
        finally:
            await outputs.aclose()
