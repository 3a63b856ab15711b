"""Batch work makes room for people."""

import asyncio
from collections.abc import Awaitable, Callable

from gateway.serving.batch_share import BatchShare


class Crowd:
    """Items of batch work that come in when they may and leave when told."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.share = BatchShare(4, 1, linger_s=1.0, clock_s=lambda: self.now_s)
        self.inside: list[int] = []
        self.leave: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def come(self, *numbers: int) -> None:
        for number in numbers:
            self.leave[number] = asyncio.Event()
            self.tasks[number] = asyncio.create_task(self._item(number))
        await settled()

    async def go(self, *numbers: int) -> None:
        for number in numbers:
            self.leave[number].set()
        await settled()

    async def _item(self, number: int) -> None:
        async with self.share.place():
            self.inside.append(number)
            await self.leave[number].wait()
            self.inside.remove(number)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(test: Callable[[Crowd], Awaitable[None]]) -> None:
    async def scenario() -> None:
        crowd = Crowd()
        await test(crowd)
        for task in crowd.tasks.values():
            task.cancel()
        await asyncio.gather(*crowd.tasks.values(), return_exceptions=True)

    asyncio.run(scenario())


def test_all_places_while_nobody_waits() -> None:
    async def test(crowd: Crowd) -> None:
        await crowd.come(1, 2, 3, 4, 5)
        assert crowd.inside == [1, 2, 3, 4]
        await crowd.go(2)
        assert crowd.inside == [1, 3, 4, 5]

    run(test)


def test_few_while_somebody_waits_and_all_again_afterwards() -> None:
    async def test(crowd: Crowd) -> None:
        await crowd.come(1, 2, 3, 4, 5, 6)
        with crowd.share.interactive():
            await crowd.go(1, 2, 3)
            assert crowd.inside == [4], "those inside go on, none comes in"
            await crowd.go(4)
            assert crowd.inside == [5], "but never none at all"
        await crowd.come(7, 8)
        assert crowd.inside == [5], "who just asked may ask again"
        crowd.now_s = 1.5
        await crowd.go(5)
        assert crowd.inside == [6, 7, 8]

    run(test)


async def test_those_who_wait_come_in_by_themselves_when_people_have_gone() -> None:
    share = BatchShare(2, 1, linger_s=0.01)
    with share.interactive():
        pass
    both = asyncio.Barrier(2)

    async def item() -> None:
        async with share.place():
            await both.wait()

    async with asyncio.timeout(240):
        await asyncio.gather(item(), item())


def test_an_item_that_is_cancelled_while_it_waits_takes_no_place() -> None:
    async def test(crowd: Crowd) -> None:
        await crowd.come(1, 2, 3, 4, 5, 6)
        crowd.tasks[5].cancel()
        await crowd.go(1)
        assert crowd.inside == [2, 3, 4, 6]
        await crowd.come(7)
        crowd.leave[2].set()
        crowd.tasks[7].cancel()
        await settled()
        await crowd.come(8)
        assert crowd.inside == [3, 4, 6, 8]

    run(test)


def test_one_that_is_cancelled_while_another_leaves_is_only_cancelled() -> None:
    async def test(crowd: Crowd) -> None:
        await crowd.come(1, 2, 3, 4, 5, 6)
        crowd.leave[1].set()  # 1 leaves first, and passes over 5, which has not noticed yet
        crowd.tasks[5].cancel()
        await settled()
        assert crowd.tasks[5].cancelled()
        assert crowd.inside == [2, 3, 4, 6]

    run(test)


async def test_an_item_takes_as_many_places_as_it_has_answers() -> None:
    share = BatchShare(4, 4)
    inside: list[int] = []

    async def item(sequences: int, leave: asyncio.Event) -> None:
        async with share.place(sequences):
            inside.append(sequences)
            await leave.wait()
            inside.remove(sequences)

    leaves = [asyncio.Event() for _ in range(4)]
    tasks = [asyncio.create_task(item(sequences, leave)) for sequences, leave in zip((3, 2, 1, 9), leaves, strict=True)]
    await settled()
    assert inside == [3], "the second does not fit, and nobody overtakes it"
    leaves[0].set()
    await settled()
    assert inside == [2, 1]
    leaves[1].set()
    await settled()
    assert inside == [1]
    leaves[2].set()
    await settled()
    assert inside == [9], "more than there are places for go in alone"
    tasks.append(asyncio.create_task(item(1, leaves[3])))
    await settled()
    assert inside == [9]
    leaves[3].set()
    await asyncio.gather(*tasks)
