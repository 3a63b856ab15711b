import asyncio
import time

from stepserve.loop_lag import LoopLag


def test_the_worst_of_the_last_minute() -> None:
    now_s = 1000.0
    lag = LoopLag(lambda: now_s)
    assert lag.worst_s() == 0.0
    for late_s in (0.1, 3.0, 0.2, 0.5, 0.3, -0.001):
        lag.note(late_s)
        now_s += 10.0
    assert lag.worst_s() == 3.0
    now_s += 15.0
    assert lag.worst_s() == 0.5
    now_s += 20.0
    assert lag.worst_s() == 0.3
    now_s += 60.0
    assert lag.worst_s() == 0.0


def test_a_loop_that_is_held_up() -> None:
    async def scenario() -> float:
        lag = LoopLag()
        watching = asyncio.create_task(lag.run())
        await asyncio.sleep(0)
        time.sleep(0.6)  # noqa: ASYNC251 - what is looked for
        while not lag.worst_s():
            await asyncio.sleep(0)
        watching.cancel()
        return lag.worst_s()

    assert asyncio.run(scenario()) >= 0.3
