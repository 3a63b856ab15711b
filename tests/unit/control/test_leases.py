"""A lease is dead when its process is, or when nobody renewed it while it was watched for its length."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from control.errors import DatabaseUnavailable
from control.jobs.ending import LAPSED, TAKEN, Stop
from control.jobs.leases import Lease, LeaseWatch, is_surely_dead, keep_lease, new_owner

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


def test_this_process_lives() -> None:
    assert not is_surely_dead(new_owner())


def test_two_runners_of_a_process_differ() -> None:
    assert new_owner() != new_owner()


def test_a_process_with_another_start_is_dead() -> None:
    host, boot, pid, _, number = new_owner().split("/")
    assert is_surely_dead(f"{host}/{boot}/{pid}/1/{number}")


def test_a_missing_process_is_dead() -> None:
    host, boot, _, start, number = new_owner().split("/")
    assert is_surely_dead(f"{host}/{boot}/{max(psutil.pids()) + 100_000_000}/{start}/{number}")


@pytest.mark.parametrize("owner", ["elsewhere.example/b/1/1/1", "elsewhere.example/1/1.00", "", "x"])
def test_of_others_nothing_is_known(owner: str) -> None:
    assert not is_surely_dead(owner)


def test_of_another_boot_nothing_is_known() -> None:
    host, _, pid, _, number = new_owner().split("/")
    assert not is_surely_dead(f"{host}/other-boot/{pid}/1/{number}")


def _kept(renew: Callable[[], Awaitable[bool]], *, lease_s: float = 60.0) -> Stop | None:
    return asyncio.run(keep_lease("j", renew, asyncio.Event(), every_s=0.0, lease_s=lease_s))


async def test_a_lease_is_renewed_until_the_run_is_over() -> None:
    over = asyncio.Event()
    renewals: list[None] = []

    async def renew() -> bool:
        renewals.append(None)
        if len(renewals) == 3:
            over.set()
        return True

    assert await keep_lease("j", renew, over, every_s=0.0, lease_s=60.0) is None
    assert len(renewals) == 3


def test_a_lease_that_is_another_s_ends_the_run() -> None:
    async def renew() -> bool:
        return False

    assert _kept(renew) == TAKEN


def test_a_lease_that_cannot_be_renewed_for_its_length_ends_the_run() -> None:
    async def renew() -> bool:
        raise DatabaseUnavailable("locked")

    assert _kept(renew, lease_s=0.0) == LAPSED


def test_one_renewal_that_fails_ends_nothing() -> None:
    answers = iter([DatabaseUnavailable("locked"), None])

    async def renew() -> bool:
        if (error := next(answers)) is not None:
            raise error
        return False

    assert _kept(renew) == TAKEN
