"""Does a soak tell a leak from what comes and goes?"""

import math

from benchmarks.soak_drift import Drift, Point, counted, latency, memory

HOUR = [float(at) for at in range(0, 3600, 10)]


def of(found: Drift | None) -> Drift:
    assert found is not None
    return found


def test_memory_that_grows_by_two_percent_an_hour_drifts() -> None:
    drift = of(memory("gateway", [Point(at, 1000 + 20 * at / 3600) for at in HOUR]))
    assert drift.verdict == "drifts"
    assert math.isclose(drift.change, 2, rel_tol=0.05)


def test_what_is_taken_to_warm_up_and_at_peaks_is_no_drift() -> None:
    def held(at: float) -> float:
        peak = 300 if at % 60 == 0 else 0
        return (500 if at < 300 else 1000) + peak

    drift = of(memory("gateway", [Point(at, held(at)) for at in HOUR]))
    assert (drift.verdict, drift.change) == ("flat", 0)


def test_minutes_say_nothing_of_memory() -> None:
    assert of(memory("gateway", [Point(at, 1000 + at) for at in HOUR[:60]])).verdict == "too short"


def test_one_file_more_in_each_ten_minutes_is_left_open() -> None:
    drift = of(counted("gateway", [Point(at, 200 + at // 600 + (at % 70) / 10) for at in HOUR]))
    assert drift.verdict == "drifts"
    assert drift.change >= 2


def test_files_that_come_and_go_are_not() -> None:
    assert of(counted("gateway", [Point(at, 200 + (at % 70)) for at in HOUR])).verdict == "flat"


def test_an_end_that_is_slower_than_the_beginning() -> None:
    steady = [Point(at / 10, 0.1 + (at % 100) / 1000) for at in range(36_000)]
    slower = [Point(point.at_s, point.value * (1.2 if point.at_s > 1800 else 1)) for point in steady]
    assert of(latency("chat", steady)).verdict == "flat"
    assert of(latency("chat", slower)).verdict == "drifts"
    assert latency("chat", steady[:50]) is None
