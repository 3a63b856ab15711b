"""Batch work never has the whole engine."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.batch_room import batch_room, with_room
from switchyard.contract import BATCH_PRIORITY


@pytest.mark.parametrize(("sequences", "room"), [(1, 1), (2, 1), (8, 7), (16, 15), (256, 240)])
def test_how_much_batch_work_may_have(sequences: int, room: int) -> None:
    assert batch_room(sequences) == room


def test_people_pass_while_batch_work_waits_its_turn() -> None:
    async def run() -> None:
        running: set[str] = set()
        release = asyncio.Event()

        async def engine(name: str, *, priority: int) -> AsyncGenerator[str, None]:
            running.add(name)
            try:
                await release.wait()
                yield name
            finally:
                running.discard(name)

        async def ask(name: str, priority: int) -> list[str]:
            return [output async for output in generate(name, priority=priority)]

        generate = with_room(engine, 4)
        batch = [asyncio.create_task(ask(f"batch-{number}", BATCH_PRIORITY)) for number in range(10)]
        while len(running) < 3:
            await asyncio.sleep(0)
        person = asyncio.create_task(ask("person", 0))
        while "person" not in running:
            await asyncio.sleep(0)
        assert len(running) == 4
        batch[0].cancel()
        while running != {"person", "batch-1", "batch-2", "batch-3"}:  # one that leaves makes room
            await asyncio.sleep(0)
        release.set()
        assert await person == ["person"]
        answers = await asyncio.gather(*batch, return_exceptions=True)
        assert answers[1:] == [[f"batch-{number}"] for number in range(1, 10)]

    asyncio.run(run())
