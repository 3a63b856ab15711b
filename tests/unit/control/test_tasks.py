"""Background work: what holds a transaction is not cut off in it."""

import asyncio

import pytest

from control.errors import NotFound
from control.tasks import repeat, uncut


def test_work_that_is_cancelled_comes_to_its_end_first() -> None:
    async def scenario() -> list[str]:
        seen: list[str] = []
        inside, may_end = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            inside.set()
            await may_end.wait()
            seen.append("ended")

        async def loop() -> None:
            try:
                await uncut(work())
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        task = asyncio.create_task(loop())
        await inside.wait()
        task.cancel()
        await asyncio.sleep(0)
        assert seen == []
        may_end.set()
        await asyncio.wait({task})
        return seen

    assert asyncio.run(scenario()) == ["ended", "cancelled"]


def test_work_that_does_not_end_is_cancelled_after_its_time() -> None:
    async def scenario() -> bool:
        inside = asyncio.Event()

        async def work() -> None:
            inside.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(uncut(work(), limit_s=0.01))
        await inside.wait()
        task.cancel()
        await asyncio.wait({task})
        return task.cancelled()

    assert asyncio.run(scenario())


def test_results_and_errors_are_those_of_the_work() -> None:
    async def right() -> int:
        return 42

    async def wrong() -> int:
        raise ValueError("wrong")

    assert asyncio.run(uncut(right())) == 42
    with pytest.raises(ValueError, match="wrong"):
        asyncio.run(uncut(wrong()))


async def test_what_is_repeated_outlives_its_troubles_and_says_each_once(caplog: pytest.LogCaptureFixture) -> None:
    outcomes = [NotFound("away"), NotFound("away"), None, NotFound("away"), ZeroDivisionError("a defect"), None]
    over, wake = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        outcome = outcomes.pop(0)
        (wake if outcomes else over).set()  # the next turn would come in an hour
        if outcome is not None:
            raise outcome

    task = asyncio.create_task(repeat(work, "the rounds", 3600.0, wake))
    async with asyncio.timeout(240):
        await over.wait()
    task.cancel()
    await asyncio.wait({task})
    said = [record.getMessage() for record in caplog.records]
    assert said == ["the rounds: not now: away"] * 2 + ["the rounds failed; tried again in 3600 s"]
