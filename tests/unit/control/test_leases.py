"""A lease is dead when nobody renewed it while it was watched for its length."""

from datetime import UTC, datetime, timedelta

from control.jobs.leases import LeaseWatch
from control.jobs.queue import Lease

MOMENT = datetime(2025, 11, 22, tzinfo=UTC)


class Hands:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_lease_that_stays_the_same_dies_after_its_length() -> None:
    clock = Hands()
    watch = LeaseWatch(10.0, clock)
    lease = Lease("j", "o", MOMENT)
    assert watch.dead([lease]) == []
    clock.now_s += 9.9
    assert watch.dead([lease]) == []
    clock.now_s += 0.1
    assert watch.dead([lease]) == [lease]


def test_each_renewal_begins_anew_whatever_time_it_names() -> None:
    clock = Hands()
    watch = LeaseWatch(10.0, clock)
    for number in range(20):
        clock.now_s += 9.0
        assert watch.dead([Lease("j", "o", MOMENT + timedelta(hours=(-1) ** number, seconds=number))]) == []


def test_a_lease_out_of_sight_is_forgotten() -> None:
    clock = Hands()
    watch = LeaseWatch(10.0, clock)
    lease = Lease("j", None, None)
    watch.dead([lease])
    watch.dead([])
    clock.now_s += 50
    assert watch.dead([lease]) == []
