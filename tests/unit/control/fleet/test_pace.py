"""How fast files go to members, on a clock of the test's own."""

from control.fleet.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


async def test_all_together_get_what_the_limit_says() -> None:
    clock = Clock()
    pace = Pace(1e6, lambda: clock.now_s, clock.sleep)
    for _ in range(20):
        await pace.turn(500_000)
    assert clock.now_s == 100.0 + 19 * 0.5, "the first piece waits for nobody"


async def test_who_was_idle_has_not_saved_anything_up() -> None:
    clock = Clock()
    pace = Pace(1e6, lambda: clock.now_s, clock.sleep)
    await pace.turn(1_000_000)
    clock.now_s += 3600.0
    begin_s = clock.now_s
    await pace.turn(1_000_000)
    assert clock.now_s == begin_s
    await pace.turn(1_000_000)
    assert clock.now_s == begin_s + 1.0


async def test_without_a_limit_nothing_waits() -> None:
    clock = Clock()
    pace = Pace(None, lambda: clock.now_s, clock.sleep)
    for _ in range(5):
        await pace.turn(10**12)
    assert clock.now_s == 100.0
